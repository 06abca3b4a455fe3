//! `/v1` on the admin listener: what changes the broker, and who may ask for it.

use std::{net::IpAddr, sync::Arc, time::Instant};

use axum::{
    Router,
    body::{self, Body},
    extract::State,
    http::{Extensions, HeaderValue, Method, Request, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tracing::{info, warn};
use url::form_urlencoded;

use super::{
    fleet::Fleet,
    guard::{Asks, Guard, Operator, Refused},
    http::Pages,
    revocations::{Change, Ledger, Outcome, entry::Entry, now_s},
};
use crate::access::revocation::{Kind, Subject};

/// The longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 4 << 10;
/// So many revocations are on a page at most.
const LISTED_MAX: usize = 1_000;
/// An operator's clock may be so far ahead, in seconds.
const AHEAD_S_MAX: u64 = 300;
/// The longest time that something is revoked for, in seconds: ten years. Milliseconds would be beyond.
const LIFE_S_MAX: u64 = 10 * 366 * 86_400;
/// How long those have to wait who brought too many tokens that are none.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("60");

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub IpAddr);

/// Why something was not done: its status, a code for programs and a sentence for people.
struct Fault(StatusCode, &'static str, String);

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let Fault(status, code, message) = self;
        (status, Json(json!({ "code": code, "message": message }))).into_response()
    }
}

/// An answer.
struct Json(Value);

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, json)], format!("{}\n", self.0)).into_response()
    }
}

fn bad(message: impl Into<String>) -> Fault {
    Fault(StatusCode::BAD_REQUEST, "bad_message", message.into())
}

/// What a request asks for.
fn asks(method: &Method, path: &str) -> Asks {
    match path {
        "/metrics" => Asks::Metrics,
        path if !is_api(path) => Asks::Nothing,
        _ if matches!(*method, Method::GET | Method::HEAD) => Asks::Read,
        _ => Asks::Write,
    }
}

/// Answers nothing that is not everybody's to whoever does not say who it is.
pub(super) async fn check_operator(
    State(guard): State<Arc<Guard>>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let asks = asks(request.method(), request.uri().path());
    let is_api = is_api(request.uri().path());
    let Peer(address) = *request.extensions().get::<Peer>().expect("each connection is of somebody");
    let mut lines = request.headers().get_all(header::AUTHORIZATION).iter();
    // Two say nothing.
    let authorization = lines.next().filter(|_| lines.next().is_none());
    let authorization = authorization.and_then(|line| line.to_str().ok());
    let mut response = match guard.admit(asks, authorization, address, Instant::now()) {
        Ok(operator) => {
            if let Some(operator) = operator {
                request.extensions_mut().insert(operator);
            }
            next.run(request).await
        }
        Err(why) => {
            // So many of an address at most, and no more than that.
            if matches!(why, Refused::UnknownToken | Refused::NotAllowed) {
                warn!(target: "fanfare::audit", %address, reason = why.as_str(), "admin refused");
            }
            refused(why, guard.has_operators())
        }
    };
    if is_api {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

fn refused(why: Refused, has_operators: bool) -> Response {
    let (status, code, message) = match why {
        Refused::NoToken | Refused::UnknownToken if !has_operators => (
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "nobody may: admin.tokens_file names no file of tokens",
        ),
        Refused::NoToken => (
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "Authorization: Bearer with a token of admin.tokens_file is needed",
        ),
        Refused::UnknownToken => (StatusCode::UNAUTHORIZED, "unauthorized", "the token was not accepted"),
        Refused::NotAllowed => (StatusCode::FORBIDDEN, "forbidden", "the token needs the role \"write\""),
        Refused::TooMany => (
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limited",
            "too many tokens that were not accepted; wait a minute",
        ),
    };
    let mut response = Fault(status, code, message.into()).into_response();
    match status {
        StatusCode::UNAUTHORIZED => {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::TOO_MANY_REQUESTS => {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        _ => {}
    }
    response
}

/// What is nowhere below `/v1`.
pub(super) fn no_such_page() -> Response {
    Fault(StatusCode::NOT_FOUND, "not_found", "there is no such page".into()).into_response()
}

/// Whether that is below `/v1`.
pub(super) fn is_api(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
}

/// What there is below `/v1`.
pub(super) fn routes<F: Fleet>() -> Router<Arc<Pages<F>>> {
    let revocations = get(list::<F>).post(revoke::<F>).delete(take_back::<F>);
    let fallback = || async {
        let message = "GET, POST and DELETE are allowed".into();
        Fault(StatusCode::METHOD_NOT_ALLOWED, "bad_message", message)
    };
    Router::new().route("/v1/revocations", revocations.fallback(fallback))
}

fn ledger<F: Fleet>(pages: &Pages<F>) -> Result<&Arc<Ledger>, Fault> {
    pages.watch.ledger().ok_or_else(|| {
        Fault(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the broker starts; ask again when it is ready".into(),
        )
    })
}

async fn list<F: Fleet>(State(pages): State<Arc<Pages<F>>>, uri: Uri) -> Result<Json, Fault> {
    let ledger = ledger(&pages)?;
    let [after, limit] = parameters(uri.query().unwrap_or(""), ["after", "limit"])?;
    let after = after.map(|text| text.parse().map_err(|_| bad("after must be what the page before says")));
    let limit = limit.map(|text| text.parse().ok().filter(|limit| (1..=LISTED_MAX).contains(limit)));
    let limit = limit
        .map(|limit| limit.ok_or_else(|| bad(format!("limit must be an integer from 1 to {LISTED_MAX}"))))
        .unwrap_or(Ok(LISTED_MAX))?;
    let (revocations, now_s) = (ledger.revocations(), now_s());
    // One more, which says whether there is another page.
    let mut page = revocations.page(after.unwrap_or(Ok(u64::MAX))?, limit + 1, now_s);
    let is_last = page.len() <= limit;
    page.truncate(limit);
    let next = page.last().filter(|_| !is_last).map(|(number, _)| *number);
    let page: Vec<Entry> = page.into_iter().map(|(_, revocation)| Entry::from(revocation)).collect();
    let mut answer =
        json!({ "count": revocations.count(now_s), "kept": ledger.is_kept(), "revocations": page });
    if let Some(next) = next {
        answer["after"] = next.into();
    }
    Ok(Json(answer))
}

async fn revoke<F: Fleet>(State(pages): State<Arc<Pages<F>>>, request: Request<Body>) -> Result<Json, Fault> {
    let ledger = ledger(&pages)?;
    let by = operator(request.extensions());
    let body = body::to_bytes(request.into_body(), BODY_BYTES_MAX).await.map_err(|_| {
        let message = format!("a body of at most {BODY_BYTES_MAX} bytes is allowed");
        Fault(StatusCode::PAYLOAD_TOO_LARGE, "too_big", message)
    })?;
    let entry = Entry::parse(&body)
        .map_err(|why| bad(format!("a JSON object such as {{\"user\":\"bob\"}} is needed: {why}")))?;
    let (subject, now_s) = (entry.subject().map_err(bad)?, now_s());
    let life_s = ledger.life_s(subject.kind, subject.issuer.as_deref());
    let revocation = entry.revocation(Some(now_s + life_s.min(LIFE_S_MAX))).map_err(bad)?;
    if entry.until_s().is_some_and(|until_s| !(now_s + 1..=now_s + LIFE_S_MAX).contains(&until_s)) {
        return Err(bad("until must be seconds since the Unix epoch, in the future and within ten years"));
    }
    if entry.issued_before_s().is_some_and(|before_s| before_s > now_s + AHEAD_S_MAX) {
        return Err(bad("issued_before must be seconds since the Unix epoch, and not in the future"));
    }
    let outcome = ledger.ask(Change::Revoke(revocation.clone())).await;
    let entry = Entry::from(revocation);
    let (user, token, issuer) = entry.names();
    let (issued_before, until) = (entry.issued_before_s(), entry.until_s());
    info!(target: "fanfare::audit", by, user, token, issuer, issued_before, until, ?outcome, "revoked");
    answer(outcome)?;
    let mut answer = serde_json::to_value(entry).expect("texts and numbers are JSON");
    answer["kept"] = ledger.is_kept().into();
    Ok(Json(answer))
}

async fn take_back<F: Fleet>(
    State(pages): State<Arc<Pages<F>>>,
    request: Request<Body>,
) -> Result<Json, Fault> {
    let ledger = ledger(&pages)?;
    let [user, token, issuer] = parameters(request.uri().query().unwrap_or(""), ["user", "token", "issuer"])?;
    let (kinds, name) = match (&user, &token) {
        (Some(user), None) => (&[Kind::User, Kind::Older][..], user),
        (None, Some(token)) => (&[Kind::Token][..], token),
        _ => return Err(bad("one of ?user= and ?token= is needed")),
    };
    let subject = |kind: &Kind| Subject {
        kind: *kind,
        name: name.as_str().into(),
        issuer: issuer.as_deref().map(Into::into),
    };
    let outcome = ledger.ask(Change::TakeBack(kinds.iter().map(subject).collect())).await;
    if outcome != Outcome::Unknown {
        let by = operator(request.extensions());
        info!(target: "fanfare::audit", by, user, token, issuer, ?outcome, "revocation taken back");
    }
    answer(outcome)?;
    Ok(Json(json!({ "kept": ledger.is_kept() })))
}

/// What a query says of these names, each of which it may have once, and no other.
fn parameters<const N: usize>(query: &str, names: [&str; N]) -> Result<[Option<String>; N], Fault> {
    let mut found = [const { None }; N];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = names.iter().position(|known| **known == *name);
        let slot = place.map(|place| &mut found[place]).filter(|slot| slot.is_none());
        let slot = slot
            .ok_or_else(|| bad(format!("each of {} is allowed once, and nothing else", names.join(", "))))?;
        *slot = Some(value.into_owned());
    }
    Ok(found)
}

fn operator(extensions: &Extensions) -> String {
    extensions.get::<Operator>().map_or_else(String::new, |operator| operator.name.to_string())
}

fn answer(outcome: Outcome) -> Result<(), Fault> {
    let (status, code, message) = match outcome {
        Outcome::Done => return Ok(()),
        Outcome::Full => {
            let message = "there are as many revocations as there may be; take some back".into();
            (StatusCode::INSUFFICIENT_STORAGE, "storage_full", message)
        }
        Outcome::Unknown => (StatusCode::NOT_FOUND, "not_found", "there is no such revocation".into()),
        Outcome::NotKept(why) => {
            let message = format!(
                "auth.revocations_file was not written ({why}): what was revoked is until the broker ends, and nothing was taken back"
            );
            (StatusCode::INTERNAL_SERVER_ERROR, "not_kept", message)
        }
        Outcome::Untold(reactors) => {
            let message = format!(
                "it is noted, but the reactors {reactors:?} have not taken it yet, and are told again"
            );
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
        }
    };
    Err(Fault(status, code, message))
}
