//! Rust source as far as its words, paths and definitions go.

use std::collections::BTreeSet;

/// One word, literal or sign, without comments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    pub text: &'a str,
    pub line: usize,
}

impl Token<'_> {
    /// It is a name, a keyword or a number.
    pub fn is_word(&self) -> bool {
        self.text.starts_with(is_word_char)
    }
}

/// A path as it stands in the code; each branch of a `use` is one.
#[derive(Debug, PartialEq, Eq)]
pub struct CodePath<'a> {
    pub segments: Vec<&'a str>,
    pub line: usize,
}

/// The tokens of `text`. A literal in quotes is one with them, `::` is one, and lifetimes are left out.
pub fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (len, is_token) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (comment_len(rest), false)
        } else if let Some(len) = quoted_len(rest) {
            (len, true)
        } else if first == '\'' {
            (1 + word_len(&rest[1..]), false)
        } else if is_word_char(first) {
            (word_len(rest), true)
        } else if rest.starts_with("::") {
            (2, true)
        } else {
            (first.len_utf8(), !first.is_whitespace())
        };
        if is_token {
            tokens.push(Token { text: &rest[..len], line });
        }
        line += rest[..len].matches('\n').count();
        at += len;
    }
    tokens
}

/// Whether names may have it.
pub fn is_word_char(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

fn word_len(text: &str) -> usize {
    text.find(|char| !is_word_char(char)).unwrap_or(text.len())
}

fn comment_len(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    loop {
        let Some(next) = text[at..].find(['/', '*']) else { return text.len() };
        at += next;
        match text.get(at..at + 2) {
            Some("/*") => depth += 1,
            Some("*/") => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
}

/// How long the literal in quotes is that `text` begins with, if it does.
fn quoted_len(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c"].into_iter().find(|prefix| text.starts_with(prefix));
    let prefix = prefix.filter(|prefix| text[prefix.len()..].starts_with(['"', '#', '\'']));
    let body = &text[prefix.map_or(0, str::len)..];
    let prefix_len = text.len() - body.len();
    if prefix.is_some_and(|prefix| prefix.ends_with('r')) {
        let hashes = body.find(|char| char != '#')?;
        if !body[hashes..].starts_with('"') {
            return None;
        }
        let end = format!("\"{}", &body[..hashes]);
        let len = body[hashes + 1..].find(&end).map_or(body.len(), |at| hashes + 1 + at + end.len());
        return Some(prefix_len + len);
    }
    let quote = body.chars().next().filter(|char| matches!(char, '"' | '\''))?;
    let mut chars = body.char_indices().skip(1);
    // A quote that no other follows within a character begins a lifetime.
    if quote == '\'' {
        let (_, first) = chars.next()?;
        if first != '\\' {
            let (at, second) = chars.next()?;
            return (second == '\'').then_some(prefix_len + at + 1);
        }
        chars.next();
    }
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => _ = chars.next(),
            _ if char == quote => return Some(prefix_len + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// The tokens without what `#[cfg(test)]` and the like stand before, and the names of the modules in files of their
/// own that they stand before.
pub fn without_tests<'a>(tokens: &[Token<'a>]) -> (Vec<Token<'a>>, Vec<&'a str>) {
    let (mut kept, mut modules) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let Some(attribute) = attribute_len(&tokens[at..]) else {
            kept.push(tokens[at]);
            at += 1;
            continue;
        };
        let words = &tokens[at..at + attribute];
        if !is_for_tests(words) {
            kept.extend(words);
            at += attribute;
            continue;
        }
        at += attribute;
        while let Some(len) = attribute_len(&tokens[at..]) {
            at += len;
        }
        let item = &tokens[at..at + item_len(&tokens[at..])];
        if let [.., mod_, name, end] = item
            && mod_.text == "mod"
            && end.text == ";"
        {
            modules.push(name.text);
        }
        at += item.len();
    }
    (kept, modules)
}

/// Whether an attribute keeps what follows out of the broker: in tests, or the models of a model checker.
fn is_for_tests(attribute: &[Token<'_>]) -> bool {
    let words: Vec<&str> = attribute.iter().map(|token| token.text).collect();
    let is_condition = |word: &str| matches!(word, "test" | "fanfare_loom");
    words[2] == "cfg" && (2..words.len()).any(|at| is_condition(words[at]) && words[at - 2] != "not")
}

/// How many tokens the attribute has that `tokens` begin with, if they do.
fn attribute_len(tokens: &[Token<'_>]) -> Option<usize> {
    let [hash, bracket, ..] = tokens else { return None };
    if hash.text != "#" || bracket.text != "[" {
        return None;
    }
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate() {
        match token.text {
            "[" => depth += 1,
            "]" if depth == 1 => return Some(index + 1),
            "]" => depth -= 1,
            _ => {}
        }
    }
    Some(tokens.len())
}

/// How many tokens the item, statement, field or arm has that `tokens` begin with.
fn item_len(tokens: &[Token<'_>]) -> usize {
    let is_visibility =
        |token: &&Token<'_>| matches!(token.text, "pub" | "(" | ")" | "crate" | "super" | "in");
    let keyword = tokens.iter().find(|token| !is_visibility(token)).map_or("", |token| token.text);
    let ends_with_semicolon = matches!(keyword, "use" | "let" | "const" | "static" | "type");
    let is_item = ends_with_semicolon
        || matches!(keyword, "fn" | "impl" | "mod" | "struct" | "enum" | "trait" | "unsafe" | "macro_rules");
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate() {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return index,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 && !ends_with_semicolon {
                    return index + 1;
                }
            }
            ";" if depth == 0 => return index + 1,
            "," if depth == 0 && !is_item => return index + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// All paths of more than one segment, and all that is imported.
pub fn paths<'a>(tokens: &[Token<'a>]) -> Vec<CodePath<'a>> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let text = |index: usize| tokens.get(index).map_or("", |token: &Token<'a>| token.text);
        if text(at) == "use" {
            at = read_use(tokens, at + 1, &[], &mut paths);
        } else if tokens[at].is_word() && text(at + 1) == "::" {
            let mut path = CodePath { segments: vec![text(at)], line: tokens[at].line };
            at += 1;
            while text(at) == "::" && tokens.get(at + 1).is_some_and(Token::is_word) {
                path.segments.push(text(at + 1));
                at += 2;
            }
            paths.push(path);
        } else {
            at += 1;
        }
    }
    paths
}

/// Reads one tree of a `use` from `at` on, and tells where it ends.
fn read_use<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    prefix: &[&'a str],
    paths: &mut Vec<CodePath<'a>>,
) -> usize {
    let mut segments = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.text {
            "::" => {}
            "{" => {
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = read_use(tokens, at, &segments, paths);
                    if tokens.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "as" => at += 1,
            text if token.is_word() || text == "*" => segments.push(text),
            _ => {
                at -= 1;
                break;
            }
        }
    }
    let line = tokens.get(at.saturating_sub(1)).map_or(0, |token| token.line);
    paths.push(CodePath { segments, line });
    at
}

/// What is defined, each name with what it is in: a type, a trait, or the module `module` that the file is.
pub fn definitions<'a>(tokens: &[Token<'a>], module: &'a str) -> BTreeSet<(&'a str, &'a str)> {
    let mut definitions = BTreeSet::new();
    // Of each brace that is open: what is defined in it, and whether all that it names is.
    let mut scopes = vec![(module, false)];
    let mut next = None;
    for (index, token) in tokens.iter().enumerate() {
        let scope = *scopes.last().unwrap_or(&(module, false));
        let name = tokens.get(index + 1).map_or("", |token| token.text);
        match token.text {
            "impl" => next = subject(&tokens[index + 1..]).map(|name| (name, false)).or(next),
            "struct" | "enum" | "union" | "trait" | "mod" => {
                definitions.insert((scope.0, name));
                next = Some((name, matches!(token.text, "struct" | "enum" | "union")));
            }
            "fn" | "const" | "static" | "type" => _ = definitions.insert((scope.0, name)),
            "{" => scopes.push(next.take().unwrap_or((scope.0, false))),
            "}" => _ = scopes.pop(),
            ";" => next = None,
            text if scope.1 && token.is_word() => _ = definitions.insert((scope.0, text)),
            _ => {}
        }
    }
    definitions
}

/// Which type an `impl` is of, from what follows that word; none where it is no block, as in `impl Fn()`.
fn subject<'a>(tokens: &[Token<'a>]) -> Option<&'a str> {
    let (mut depth, mut name, mut before) = (0, None, "");
    for token in tokens {
        match token.text {
            "<" => depth += 1,
            ">" if before != "-" => depth -= 1,
            "for" if depth == 0 => name = None,
            "{" | "where" => return name,
            ";" | ")" | "," | "=" if depth <= 0 => return None,
            text if depth == 0 && token.is_word() => name = Some(text),
            _ => {}
        }
        before = token.text;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        tokens(text).iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_lifetimes_are_no_tokens_and_literals_are_one_each() {
        let text =
            "a /* b /* c */ d */ e // f\n&'g h '\\'' 'i' \"j \\\" // k\" r#\"l \" m\"# b'n' br\"o\" ::p";
        let expected =
            ["a", "e", "&", "h", "'\\''", "'i'", "\"j \\\" // k\"", "r#\"l \" m\"#", "b'n'", "br\"o\""];
        assert_eq!(words(text)[..expected.len()], expected);
        assert_eq!(words(text)[expected.len()..], ["::", "p"]);
        assert_eq!(tokens("a\n/*\n*/ \"\n\" b").last(), Some(&Token { text: "b", line: 4 }));
    }

    #[test]
    fn what_is_for_tests_is_left_out_to_its_end_and_no_further() {
        let text =
            "a; #[cfg(test)] #[allow(x)] mod t { b; { } } c; #[cfg(all(test, not(x)))] pub(crate) mod naive;
            #[cfg(not(test))] d; #[cfg(any(test, y))] use e::{f, g}; struct S { #[cfg(test)] h: (I, J), k: L }
            #[cfg(test)] fn m<N, O>() -> P { } q";
        let (kept, modules) = without_tests(&tokens(text));
        let kept: Vec<&str> = kept.iter().map(|token| token.text).filter(|text| text.len() < 2).collect();
        let signs = |text: &&&str| text.chars().all(is_word_char);
        assert_eq!(kept.iter().filter(signs).copied().collect::<String>(), "acdSkLq");
        assert_eq!(modules, ["naive"]);
    }

    #[test]
    fn each_branch_of_a_use_and_each_path_is_found_with_its_line() {
        let text = "use a::{b::{self, c as d}, e::*};\nuse f;\nfn g() { crate::h::i::<J>(k.l::<m::N>()) }";
        let found: Vec<(String, usize)> =
            paths(&tokens(text)).iter().map(|path| (path.segments.join("::"), path.line)).collect();
        let expected = [
            ("a::b::self", 1),
            ("a::b::c", 1),
            ("a::e::*", 1),
            ("f", 2),
            ("crate::h::i", 3),
            ("l", 3),
            ("m::N", 3),
        ];
        assert_eq!(found, expected.map(|(path, line)| (path.to_string(), line)));
    }

    #[test]
    fn what_is_defined_is_found_with_what_it_is_in() {
        let text = "const A: u8 = 1; pub struct B<T> { pub c: Vec<D> } enum E { F, G(u8) }
            impl<T: Fn() -> u8> B<T> { fn h(&self) -> impl Fn() { i { } } fn j() {} }
            impl K for E { fn l() {} } trait K { fn l(); } mod m { fn n() {} }";
        let found = definitions(&tokens(text), "file");
        for name in [
            ("file", "A"),
            ("B", "c"),
            ("E", "G"),
            ("B", "h"),
            ("B", "j"),
            ("E", "l"),
            ("K", "l"),
            ("m", "n"),
        ] {
            assert!(found.contains(&name), "{name:?} is not in {found:?}");
        }
        for name in [("file", "h"), ("B", "l"), ("B", "i"), ("file", "n")] {
            assert!(!found.contains(&name), "{name:?} is in {found:?}");
        }
    }
}
