//! The rules of names and filters as one reads them.

/// Whether a client may publish to `text`.
pub(crate) fn is_name(text: &str) -> bool {
    has_shape(text) && !text.contains(['+', '#']) && !text.starts_with('$')
}

/// Whether a client may subscribe to `text`.
pub(crate) fn is_filter(text: &str) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    has_shape(text)
        && levels.iter().enumerate().all(|(index, level)| match *level {
            "+" => true,
            "#" => index == levels.len() - 1,
            literal => !literal.contains(['+', '#']),
        })
}

fn has_shape(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.split('/').count() <= 32 && !text.contains('\0')
}
