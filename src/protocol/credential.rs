//! What an upgrade request proves itself with: a bearer token (RFC 6750 sections 2.1 and 2.3), or a cookie.
//!
//! The first of these that is there counts, whatever becomes of it: `Authorization: Bearer`, `access_token` in the query, the
//! cookie that the operator names. A cookie is sent by browsers whoever's page asks, so that it counts only where it is known
//! whose page that is.

use super::secret::Secret;

/// Where a request may have its credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The name of the cookie; none is looked at without.
    pub cookie: Option<Box<str>>,
}

/// What parts of a request say.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a, I> {
    /// The values of its `Authorization` lines.
    pub authorizations: I,
    /// What stands behind the `?` of its target.
    pub query: &'a str,
    /// The values of its `Cookie` lines.
    pub cookies: I,
    /// A page asks for it, and it is known whose: see [`Site::knows_origin`](super::site::Site::knows_origin).
    pub has_known_origin: bool,
}

/// A credential that is there twice: what it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twice(pub &'static str);

impl Places {
    /// The credential of the request, if it has one.
    ///
    /// # Errors
    /// It has two in the same place, and which one counted would be anybody's guess.
    pub fn find<'a, I: Iterator<Item = &'a [u8]>>(
        &self,
        request: Request<'a, I>,
    ) -> Result<Option<Secret>, Twice> {
        let mut authorizations = request.authorizations;
        let authorization = authorizations.next();
        if authorizations.next().is_some() {
            return Err(Twice("Authorization header"));
        }
        // Another scheme is between the client and whatever stands before the broker.
        if let Some(token) = authorization.and_then(bearer) {
            return Ok(Some(secret(token)));
        }
        let parameters =
            request.query.split('&').filter_map(|parameter| parameter.strip_prefix("access_token="));
        if let Some(token) = one(parameters, "access_token in the query")? {
            return Ok(Some(secret(token.as_bytes())));
        }
        let Some(name) = self.cookie.as_deref().filter(|_| request.has_known_origin) else {
            return Ok(None);
        };
        let pairs = request.cookies.flat_map(|line| line.split(|byte| *byte == b';'));
        let values =
            pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        Ok(one(values, "cookie for the broker")?.map(secret))
    }
}

fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer";
    let (scheme, token) = authorization.split_at_checked(SCHEME.len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(SCHEME) && matches!(token.first(), None | Some(b' '));
    is_bearer.then(|| token.trim_ascii())
}

fn one<T>(mut found: impl Iterator<Item = T>, name: &'static str) -> Result<Option<T>, Twice> {
    let first = found.next();
    if found.next().is_some() { Err(Twice(name)) } else { Ok(first) }
}

/// What is no UTF-8 is a credential all the same, of a kind that nobody has.
fn secret(token: &[u8]) -> Secret {
    Secret::new(String::from_utf8_lossy(token).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(
        authorizations: &[&str],
        query: &str,
        cookies: &[&str],
        has_known_origin: bool,
    ) -> Result<Option<String>, Twice> {
        let lines = |lines: &[&'static str]| lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>();
        let (authorizations, cookies) = (leak(authorizations), leak(cookies));
        let places = Places { cookie: Some("__Host-t".into()) };
        let found = places.find(Request {
            authorizations: lines(&authorizations).into_iter(),
            query,
            cookies: lines(&cookies).into_iter(),
            has_known_origin,
        });
        found.map(|found| found.map(|secret| secret.get().to_owned()))
    }

    fn leak(lines: &[&str]) -> Vec<&'static str> {
        lines.iter().map(|line| &*line.to_string().leak()).collect()
    }

    #[test]
    fn the_first_place_that_has_one_counts() {
        for (authorizations, query, cookies, expected) in [
            (&["Bearer a"][..], "access_token=b", &["__Host-t=c"][..], Some("a")),
            (&["bEARER  a "], "", &[], Some("a")),
            (&["Bearer"], "access_token=b", &[], Some("")),
            (&["Bearer "], "access_token=b", &[], Some("")),
            (&["Basic a"], "access_token=b", &["__Host-t=c"], Some("b")),
            (&["Bearerx a"], "", &[], None),
            (&["Bear"], "", &[], None),
            (&[], "x=1&access_token=b&y", &["__Host-t=c"], Some("b")),
            (&[], "access_token=", &["__Host-t=c"], Some("")),
            (&[], "xaccess_token=b&ACCESS_TOKEN=b&access_token", &["__Host-t=c"], Some("c")),
            (&[], "", &["a=b; __Host-t=c", "d=e"], Some("c")),
            (&[], "", &["a=b;__Host-t=\"c\" "], Some("\"c\"")),
            (&[], "", &["__Host-tt=c; x__Host-t=c; __host-t=c"], None),
            (&[], "", &[], None),
        ] {
            let found = find(authorizations, query, cookies, true);
            assert_eq!(found, Ok(expected.map(str::to_owned)), "{authorizations:?} {query} {cookies:?}");
        }
    }

    #[test]
    fn a_cookie_counts_with_an_origin_alone() {
        assert_eq!(find(&[], "", &["__Host-t=c"], false), Ok(None));
        assert_eq!(find(&[], "access_token=b", &["__Host-t=c"], false), Ok(Some("b".into())));
    }

    #[test]
    fn two_in_one_place_are_none() {
        assert_eq!(find(&["Bearer a", "Bearer a"], "", &[], true), Err(Twice("Authorization header")));
        assert_eq!(find(&["Basic a", "Bearer a"], "", &[], true), Err(Twice("Authorization header")));
        let query = "access_token=a&access_token=a";
        assert_eq!(find(&[], query, &[], true), Err(Twice("access_token in the query")));
        let cookies = ["__Host-t=a", "x=1; __Host-t=b"];
        assert_eq!(find(&[], "", &cookies, true), Err(Twice("cookie for the broker")));
        // What nobody looks at may be there as often as it likes.
        assert_eq!(find(&["Bearer a"], query, &cookies, true), Ok(Some("a".into())));
    }
}
