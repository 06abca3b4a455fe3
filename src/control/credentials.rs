//! Who may come in, from the configuration and the files of secrets that it names.

use std::{
    env, fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::process::{getegid, geteuid, getgroups};
use serde::Deserialize;
use toml::Spanned;
use tracing::warn;
use zeroize::Zeroizing;

use super::{
    guard::{Operator, Operators},
    keys::fetch::KeyUrl,
};
use crate::{
    access::{
        Access, Trusted,
        grants::{Grants, Role},
        keys::{Algorithm, KeySet, KeysError, Loaded, Source},
        principal,
        token::IssuerTerms,
    },
    config::{Config, Issuer},
    protocol::tenant::Tenant,
};

/// A file of secrets may be so long.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// And hold so many static tokens.
const TOKENS_MAX: usize = 65_536;
/// What whose file it is may do with it, and its group: read, and write as its owner.
const MODE_MAX: u32 = 0o640;

/// Where a service manager puts credentials: systemd.exec(5).
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// What `auth.tokens_file` holds, and `admin.tokens_file`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensFile {
    #[serde(default)]
    token: Vec<Spanned<TokenEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    sha256: String,
    user: String,
    #[serde(default)]
    roles: Vec<String>,
    tenant: Option<String>,
}

/// All that `config` says of who may do what; none if it asks nobody who they are.
///
/// # Errors
/// A line that names the key, the file and what is wrong with it.
pub fn open(config: &Config, version: u64) -> Result<Option<Arc<Access>>, String> {
    let auth = &config.auth;
    if !auth.is_on() {
        return Ok(None);
    }
    let roles = config.roles.iter().map(|role| Role {
        name: role.name.as_str().into(),
        grants: Grants::parse(&role.grants).expect("the key was checked"),
    });
    let mut access = Access::new(version, roles.collect());
    let tenants = config.tenants.iter().map(|tenant| Tenant::new(&tenant.name).expect("the key was checked"));
    access.set_tenants(tenants);
    if !auth.anonymous_roles.is_empty() {
        access.admit_anonymous(auth.anonymous_roles.iter().map(|name| name.as_str().into()).collect());
    }
    if let Some(path) = &auth.tokens_file {
        let is_known = |role: &str| config.roles.iter().any(|known| known.name == role);
        read_tokens("auth.tokens_file", path, |TokenEntry { user, roles, tenant, .. }, digest| {
            check_roles(roles, is_known, "the name of a table in [roles]")?;
            let roles = roles.iter().map(|name| name.as_str().into()).collect();
            let known = |name: &String| {
                let known = access.tenant(name).cloned();
                known
                    .ok_or_else(|| format!("tenant is {name:?}; the name of a table in [tenants] is allowed"))
            };
            let tenant = tenant.as_ref().map(known).transpose()?;
            Ok(access.admit_static_token(user, roles, tenant, digest))
        })?;
    }
    let trusted = auth.issuers.iter().map(trusted).collect::<Result<Vec<Trusted>, String>>()?;
    access.trust(trusted, auth.leeway_s);
    Ok(Some(Arc::new(access)))
}

/// Who may use the admin listener by `admin.tokens_file`; none without that key.
///
/// # Errors
/// As [`open`].
pub fn open_operators(config: &Config) -> Result<Option<Arc<Operators>>, String> {
    let Some(path) = &config.admin.tokens_file else { return Ok(None) };
    let mut operators = Operators::default();
    read_tokens("admin.tokens_file", path, |TokenEntry { user, roles, tenant, .. }, digest| {
        if tenant.is_some() {
            return Err("tenant is there; an operator is of none".into());
        }
        check_roles(roles, |role| matches!(role, "read" | "write"), "\"read\" or \"write\"")?;
        if roles.is_empty() {
            return Err("roles names none; \"read\" or \"write\" is needed".into());
        }
        let may_write = roles.iter().any(|role| role == "write");
        Ok(operators.admit(digest, Operator { name: user.as_str().into(), may_write }))
    })?;
    Ok(Some(Arc::new(operators)))
}

/// Where keys are to be fetched from, by `auth.issuers`.
///
/// # Errors
/// As [`open`].
pub fn key_urls(config: &Config) -> Result<Vec<KeyUrl>, String> {
    let read = |path: &Path| read_kept("auth.issuers.jwks_ca_file", path, changeable);
    let urls = config.auth.issuers.iter().map(|issuer| {
        KeyUrl::of(issuer, algorithms_of(issuer), |path| read(path).map(|bytes| bytes.to_vec()))
    });
    urls.filter_map(Result::transpose).collect()
}

fn algorithms_of(issuer: &Issuer) -> Vec<Algorithm> {
    let names = issuer.algorithms.iter();
    names.map(|name| Algorithm::parse(name).expect("the key was checked")).collect()
}

/// An issuer with its keys, if they are in a file.
fn trusted(issuer: &Issuer) -> Result<Trusted, String> {
    let names = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect::<Vec<Box<str>>>();
    let algorithms = algorithms_of(issuer);
    let keys = match (&issuer.key_file, &issuer.jwks_file) {
        (Some(path), _) => {
            Some(read_keys("auth.issuers.key_file", path, |bytes| KeySet::from_key_file(bytes, &algorithms))?)
        }
        (None, Some(path)) => Some(read_keys("auth.issuers.jwks_file", path, |bytes| {
            KeySet::from_jwks(bytes, &algorithms, Source::File)
        })?),
        // They are fetched.
        (None, None) => None,
    };
    Ok(Trusted {
        terms: IssuerTerms {
            iss: issuer.iss.as_str().into(),
            audience: names(&issuer.audience),
            algorithms,
            user_claim: issuer.user_claim.as_str().into(),
            claims: issuer.claims.as_str().into(),
            ttl_s_max: Some(issuer.ttl_s_max),
            tenants: issuer.tenants,
            refetch: keys.is_none().then(Arc::default),
            keys,
        },
        roles: names(&issuer.roles).into(),
        tenant: (!issuer.tenant.is_empty()).then(|| issuer.tenant.as_str().into()),
    })
}

/// The keys of a file, as `parse` reads it.
fn read_keys(
    key: &str,
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<Loaded, KeysError>,
) -> Result<Arc<KeySet>, String> {
    let Loaded { keys, passed_over } =
        parse(&read(key, path)?).map_err(|why| format!("{key} = \"{}\": {why}", path.display()))?;
    for key in passed_over {
        warn!("{}: a key is passed over: {key}", path.display());
    }
    Ok(Arc::new(keys))
}

/// Reads a file of tokens; `admit` takes in each, and tells whether it is the first with that digest.
fn read_tokens(
    key: &str,
    path: &Path,
    mut admit: impl FnMut(&TokenEntry, [u8; 32]) -> Result<bool, String>,
) -> Result<(), String> {
    let bytes = read(key, path)?;
    let text = str::from_utf8(&bytes);
    let text = text.map_err(|_| format!("{key} = \"{}\" is not UTF-8", path.display()))?;
    admit_tokens(text, &mut admit).map_err(|why| format!("{key} = \"{}\": {why}", path.display()))
}

/// Takes in a token, as [`read_tokens`] says.
type Admit<'a> = &'a mut dyn FnMut(&TokenEntry, [u8; 32]) -> Result<bool, String>;

fn admit_tokens(text: &str, admit: Admit<'_>) -> Result<(), String> {
    let line_of =
        |at: usize| 1 + text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count();
    let file: TokensFile = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(span.start));
        let why = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
        format!("line {line}: {why}; tables [[token]] of sha256, user, roles and tenant are allowed")
    })?;
    if file.token.len() > TOKENS_MAX {
        return Err(format!("it holds {} tokens; at most {TOKENS_MAX} are allowed", file.token.len()));
    }
    for entry in &file.token {
        // Which line it is takes a look at all before it, which a file of very many tokens has no time for.
        let told = |why| format!("the token of line {}: {why}", line_of(entry.span().start));
        admit_token(entry.get_ref(), admit).map_err(told)?;
    }
    Ok(())
}

fn admit_token(entry: &TokenEntry, admit: Admit<'_>) -> Result<(), String> {
    let digest = digest(&entry.sha256)
        .ok_or("sha256 must be 64 hexadecimal digits, as `fanfare token new` prints them")?;
    if !principal::is_name(&entry.user) {
        return Err(format!("user must be {}", principal::NAME_ALLOWED));
    }
    match admit(entry, digest)? {
        true => Ok(()),
        false => Err("another one has the same sha256; each token is allowed once".into()),
    }
}

fn check_roles(roles: &[String], is_known: impl Fn(&str) -> bool, allowed: &str) -> Result<(), String> {
    match roles.iter().find(|role| !is_known(role)) {
        Some(role) => Err(format!("roles names {role:?}; {allowed} is allowed")),
        None => Ok(()),
    }
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let is_hex = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut digest = [0; 32];
    for (byte, digits) in digest.iter_mut().zip(hex.as_bytes().chunks(2)).filter(|_| is_hex) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    is_hex.then_some(digest)
}

/// What is in a file of secrets, which nobody but the broker's user and its group may read.
fn read(key: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    read_kept(key, path, exposure)
}

/// What is in a file of which `fault` finds nothing wrong with its mode and its owners.
fn read_kept(
    key: &str,
    path: &Path,
    fault: impl FnOnce(u32, u32, u32) -> Option<String>,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let name = path.display();
    let refused = |why: String| format!("{key} = \"{name}\" {why}");
    let path = locate(path).ok_or_else(|| {
        refused("is a credential's name, and the service manager gave none: LoadCredential= gives it, or write an absolute path".into())
    })?;
    let unread = |error: std::io::Error| refused(format!("cannot be read: {error}"));
    let file = fs::File::open(path).map_err(unread)?;
    let about = file.metadata().map_err(unread)?;
    if !about.is_file() {
        return Err(refused("is no file".into()));
    }
    if let Some(why) = fault(about.mode(), about.uid(), about.gid()) {
        return Err(refused(why));
    }
    if about.len() > FILE_BYTES_MAX {
        return Err(refused(format!("has {} bytes; at most {FILE_BYTES_MAX} are allowed", about.len())));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(about.len() as usize + 1));
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unread)?;
    Ok(bytes)
}

/// Where the file is; nowhere if that is a credential's name and there are none.
fn locate(path: &Path) -> Option<PathBuf> {
    match path.is_absolute() {
        true => Some(path.into()),
        false => Some(Path::new(&env::var_os(CREDENTIALS_DIRECTORY)?).join(path)),
    }
}

/// Who else may read or change a file with this mode and these owners, as what to do about it.
pub(super) fn exposure(mode: u32, owner: u32, group: u32) -> Option<String> {
    let bits = mode & 0o777;
    if bits & !MODE_MAX != 0 {
        return Some(format!(
            "has mode {bits:03o}: others may read or change it; {MODE_MAX:03o} at most is allowed"
        ));
    }
    if let Some(why) = stranger(owner) {
        return Some(why);
    }
    let is_ours = || {
        let groups = getgroups().unwrap_or_default();
        group == getegid().as_raw() || groups.iter().any(|ours| ours.as_raw() == group)
    };
    if bits & 0o040 != 0 && !is_ours() {
        return Some(format!(
            "may be read by the group {group}, which is not this user's; mode 600 is allowed"
        ));
    }
    None
}

/// Who else may change a file with this mode and this owner, as what to do about it; anybody may read it.
fn changeable(mode: u32, owner: u32, _: u32) -> Option<String> {
    let bits = mode & 0o777;
    if bits & 0o022 != 0 {
        return Some(format!("has mode {bits:03o}: others may change it; 644 at most is allowed"));
    }
    stranger(owner)
}

fn stranger(owner: u32) -> Option<String> {
    let us = geteuid().as_raw();
    (owner != us && owner != 0)
        .then(|| format!("belongs to the user {owner}; this one ({us}) or root is allowed"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::{
        access::static_token,
        config::load::{Sources, load_text},
        protocol::secret::Secret,
    };

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn config(tokens_file: &Path) -> Config {
        let text = format!(
            "[auth]\ntokens_file = \"{}\"\n[roles]\nchat = {{ publish = [\"room/#\"] }}\n",
            tokens_file.display()
        );
        load_text("f", &text, &Sources::default()).unwrap()
    }

    /// A file of this text and mode in a folder of its own.
    fn file(name: &str, text: &str, mode: u32) -> PathBuf {
        let folder = env::temp_dir().join(format!("fanfare-credentials-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn whoever_has_a_token_of_the_file_is_let_in() {
        let token = static_token::from_random(&[7; 32]);
        let digest = static_token::digest(&token).unwrap();
        let hex: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        let text = format!(
            "[[token]]\nsha256 = \"{hex}\"\nuser = \"ci\"\nroles = [\"chat\"]\n[[token]]\nsha256 = \"{DIGEST}\"\nuser = \"x\"\n"
        );
        let path = file("tokens", &text, 0o640);
        let access = open(&config(&path), 3).unwrap().expect("somebody is asked");
        let authenticate =
            |token: &str| access.read(&Secret::new(token)).and_then(|read| access.prove(read, 0));
        let principal = authenticate(&token).unwrap();
        assert_eq!((principal.user(), access.version()), (Some("ci"), 3));
        let has = access.roles_of(&principal);
        assert!(access.rights(&principal, has).may_publish("room/1").is_allowed);
        assert!(access.anonymous().is_none() && authenticate("ff_x").is_err());
        let other = static_token::from_random(&[8; 32]);
        assert_eq!(authenticate(&other).unwrap_err(), crate::access::Refused::UnknownToken);
        assert!(open(&Config::default(), 0).unwrap().is_none());
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_line() {
        let entry = |sha256: &str, user: &str, roles: &str| {
            format!("\n[[token]]\nsha256 = \"{sha256}\"\nuser = \"{user}\"\nroles = [{roles}]\n")
        };
        let good = entry(DIGEST, "ci", "\"chat\"");
        for (text, why) in [
            ("x".to_owned(), "line 1: "),
            ("[[token]]\nuser = \"a\"\n".to_owned(), "line 1: missing field `sha256`"),
            (format!("{good}salt = 1\n"), "line 6: unknown field `salt`"),
            (entry("12", "ci", ""), "the token of line 2: sha256 must be 64"),
            (entry(&DIGEST.replace('a', "g"), "ci", ""), "the token of line 2: sha256 must be 64"),
            (entry(DIGEST, "", ""), "the token of line 2: user must be 1 to 128 bytes"),
            (entry(DIGEST, &"u".repeat(129), ""), "the token of line 2: user must be 1 to 128 bytes"),
            (entry(DIGEST, "a\\nb", ""), "the token of line 2: user must be 1 to 128 bytes"),
            (entry(DIGEST, "ci", "\"chatt\""), "the token of line 2: roles names \"chatt\""),
            (
                format!("{good}tenant = \"acme\"\n"),
                "the token of line 2: tenant is \"acme\"; the name of a table",
            ),
            (format!("{good}{good}"), "the token of line 7: another one has the same sha256"),
        ] {
            let path = file("bad", &text, 0o600);
            let error = open(&config(&path), 0).unwrap_err();
            let start = format!("auth.tokens_file = \"{}\": {why}", path.display());
            assert!(error.starts_with(&start), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_none() {
        for (mode, why) in [
            (0o644, Some("has mode 644")),
            (0o660, Some("has mode 660")),
            (0o604, Some("has mode 604")),
            (0o700, Some("has mode 700")),
            (0o640, None),
            (0o400, None),
        ] {
            let error = open(&config(&file(&format!("mode-{mode:o}"), "", mode)), 0).err();
            assert_eq!(
                error.as_deref().map(|error| error.contains("has mode")),
                why.map(|_| true),
                "{error:?}"
            );
            assert!(why.is_none_or(|why| error.unwrap().contains(why)));
        }
        let us = geteuid().as_raw();
        assert!(exposure(0o600, us + 1, 0).expect("no owner of ours").contains("belongs to the user"));
        assert!(exposure(0o640, us, 54_321).expect("no group of ours").contains("may be read by the group"));
        assert_eq!(exposure(0o600, 0, 54_321), None);
        let folder = config(&env::temp_dir());
        assert!(open(&folder, 0).unwrap_err().ends_with("is no file"));
        let gone = config(Path::new("/nowhere/at/all"));
        assert!(open(&gone, 0).unwrap_err().contains("cannot be read"));
        let named = config(Path::new("tokens"));
        assert!(open(&named, 0).unwrap_err().contains("LoadCredential="));
    }
}
