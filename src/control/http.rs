//! The admin listener: health for load balancers and service managers, metrics for Prometheus, and `/v1` for operators.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, Request, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
    time,
};
use tracing::{debug, warn};

use super::{
    ACCEPT_PAUSE,
    api::{self, Peer},
    fleet::{Fleet, Phase, Watch},
    guard::Guard,
    keys::KeyStatus,
    lines::STDERR,
    metrics::{self, Format, Process},
    notices::Seldom,
    revocations::now_s,
};

/// Connections served at once. For one more the oldest whose request is not complete makes room; where all are, it
/// waits.
const CONNECTIONS_MAX: usize = 32;
/// The longest request head; beyond it hyper answers 431.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// From accept to the complete request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// From accept to the last byte of the answer. One request per connection, so this bounds both.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

const WAITING: &str = "waiting for the broker before this one to close its connections\n";
const WAITING_BUT_WELL: &str = "ok, waiting for the broker before this one to close its connections\n";

const INDEX: &str = "\
fanfare

/healthz  200 while every reactor answers
/readyz   200 while clients are accepted; 503 while starting, draining and taking over
/metrics  OpenMetrics text for Prometheus; its classic text for Accept: text/plain; version=0.0.4
/v1/revocations  who is kept out (GET, POST, DELETE), with Authorization: Bearer and a token of admin.tokens_file
";

/// Connections that are served.
#[derive(Clone, Debug)]
pub struct Places(Arc<Semaphore>);

impl Places {
    /// As many as may be served at once, all free.
    #[expect(clippy::new_without_default, reason = "nothing else is made without a number")]
    pub fn new() -> Places {
        Places(Arc::new(Semaphore::new(CONNECTIONS_MAX)))
    }

    /// Waits until no connection is served, at most `limit`.
    pub async fn wait_until_free(&self, limit: Duration) {
        let _ = time::timeout(limit, self.0.acquire_many(CONNECTIONS_MAX as u32)).await;
    }
}

/// What is answered from.
pub(super) struct Pages<F> {
    pub watch: Arc<Watch<F>>,
    pub guard: Arc<Guard>,
}

/// Serves whom `guard` lets in, until the runtime ends.
pub async fn serve<F: Fleet>(listener: TcpListener, places: Places, guard: Arc<Guard>, watch: Arc<Watch<F>>) {
    let router = router(Arc::new(Pages { watch, guard }));
    let permits = places.0;
    let mut listening = Listening::default();
    let mut seldom = Seldom::default();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok((stream, address)) => (stream, Peer(address.ip())),
            Err(error) => {
                // Strangers on the clients' port can take the last descriptor.
                if seldom.is_due(Instant::now()) {
                    warn!(%error, "the admin listener could not accept");
                }
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if permits.available_permits() == 0 {
            // Those whose request has come, and who had no turn to say so, have it now.
            tokio::task::yield_now().await;
        }
        if permits.available_permits() == 0 {
            listening.displace_oldest();
        }
        let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
        let is_heard = Arc::new(AtomicBool::new(false));
        let answering = answer(stream, peer, router.clone(), Arc::clone(&is_heard), permit);
        listening.add(tokio_uring::spawn(answering).abort_handle(), is_heard);
    }
}

/// Connections whose request is not complete, the oldest first.
#[derive(Default)]
struct Listening(VecDeque<(AbortHandle, Arc<AtomicBool>)>);

impl Listening {
    fn add(&mut self, connection: AbortHandle, is_heard: Arc<AtomicBool>) {
        self.0
            .retain(|(connection, is_heard)| !connection.is_finished() && !is_heard.load(Ordering::Relaxed));
        self.0.push_back((connection, is_heard));
    }

    /// Ends the oldest: half a request holds a place that a health check needs.
    fn displace_oldest(&mut self) {
        while let Some((connection, is_heard)) = self.0.pop_front() {
            if !connection.is_finished() && !is_heard.load(Ordering::Relaxed) {
                return connection.abort();
            }
        }
    }
}

/// One request and its answer; says when the request is complete, and holds its place until the end.
async fn answer(
    stream: TcpStream,
    peer: Peer,
    router: Router,
    is_heard: Arc<AtomicBool>,
    place: OwnedSemaphorePermit,
) {
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        is_heard.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(peer);
        hyper::service::Service::call(&service, request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "an admin connection failed"),
        Err(_) => debug!("an admin connection took too long"),
    }
    drop(place);
}

fn router<F: Fleet>(pages: Arc<Pages<F>>) -> Router {
    let guard = &pages.guard;
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/healthz", get(healthz::<F>))
        .route("/readyz", get(readyz::<F>))
        .route("/metrics", get(metrics::<F>))
        .merge(api::routes())
        .fallback(no_such_page)
        .method_not_allowed_fallback(|| async {
            (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(guard), api::check_operator))
        .layer(middleware::from_fn_with_state(Arc::clone(guard), check_host))
        .with_state(pages)
}

async fn no_such_page(uri: Uri) -> Response {
    match api::is_api(uri.path()) {
        true => api::no_such_page(),
        false => (StatusCode::NOT_FOUND, "there is no such page; / lists them\n").into_response(),
    }
}

/// Answers only to names by which the listener is reached: else a page could have one of its own point here, and read
/// what is answered. What asks for health by address, or says no name as HTTP/1.0 may, is no browser's page.
async fn check_host(State(guard): State<Arc<Guard>>, request: Request<Body>, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    if request.uri().path() == "/healthz" || host.is_none_or(|host| guard.hosts.admit(host.as_bytes())) {
        return next.run(request).await;
    }
    let text = "the Host header is none of the names in admin.hosts\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

async fn healthz<F: Fleet>(State(pages): State<Arc<Pages<F>>>) -> Response {
    let watch = &pages.watch;
    match watch.first_unwell().await {
        None if watch.phase() == Phase::Waiting => WAITING_BUT_WELL.into_response(),
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn readyz<F: Fleet>(State(pages): State<Arc<Pages<F>>>) -> Response {
    match pages.watch.phase() {
        Phase::Ready => ready(&pages.watch.keys().status()),
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
        Phase::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
        Phase::Waiting => (StatusCode::SERVICE_UNAVAILABLE, WAITING).into_response(),
    }
}

/// Clients are accepted; but those of issuers without keys are told to come again, which may be all.
fn ready(keys: &KeyStatus) -> Response {
    let without = keys.without.join(" and ");
    match (keys.without.is_empty(), keys.is_shut) {
        (true, _) => "ready\n".into_response(),
        (false, false) => format!("ready, but without keys of {without}\n").into_response(),
        (false, true) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("without keys of {without}\n")).into_response()
        }
    }
}

async fn metrics<F: Fleet>(State(pages): State<Arc<Pages<F>>>, headers: HeaderMap) -> Response {
    let watch = &pages.watch;
    let format = Format::accepted(headers.get_all(header::ACCEPT).iter().filter_map(|it| it.to_str().ok()));
    let answers = watch.answers().await;
    let text = metrics::exposition(
        &answers,
        Process {
            phase: watch.phase(),
            uptime: watch.started().elapsed(),
            reloads: watch.reloads(),
            log_lines_dropped: STDERR.dropped_total(),
            is_insecure: watch.is_insecure(),
            revocations: watch.ledger().map_or(0, |ledger| ledger.revocations().count(now_s()) as u64),
            bans: watch.ban_count() as u64,
            admin_refused: pages.guard.refused(),
            audit_dropped: watch.fleet().map_or([0; 4], |fleet| fleet.audit().dropped()),
            keys: watch.keys().status(),
        },
        format,
    );
    ([(header::CONTENT_TYPE, format.content_type()), (header::VARY, "accept")], text).into_response()
}
