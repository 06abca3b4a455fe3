//! One fetch of an issuer's keys: HTTP/1.1 over TLS, or in clear from this machine.
//!
//! Whoever answers is not trusted with more than keys: neither the time that it takes, nor the bytes that it sends, nor where it
//! points to. Names are looked up on a thread of its own, since that waits for servers that nothing here bounds; the end of the
//! process does not wait for it.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    path::Path,
    pin::pin,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{ACCEPT, CACHE_CONTROL, CONNECTION, HOST, HeaderMap, LOCATION, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::oneshot,
    time,
};
use tokio_rustls::TlsConnector;
use url::{Host, Position, Url};

use crate::{
    access::keys::{Algorithm, KEYS_BYTES_MAX},
    config::{Issuer, jwks_url},
};

/// How long a fetch may take, from the look-up of the name to the last byte.
pub const LIMIT: Duration = Duration::from_secs(5);
/// So many addresses of a name are tried, each for so long.
const ADDRESSES_MAX: usize = 6;
const CONNECT_LIMIT: Duration = Duration::from_millis(1_500);
/// The longest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// The longest value of a header that is told, in characters.
const TOLD_MAX: usize = 200;

/// Where an issuer's keys are fetched from.
#[derive(Debug)]
pub struct KeyUrl {
    /// The issuer's name.
    pub iss: Box<str>,
    /// What its tokens may be signed with.
    pub algorithms: Vec<Algorithm>,
    url: Url,
    /// Who vouches for the server, if the operator says; else those whom this machine trusts.
    authorities: Option<Vec<CertificateDer<'static>>>,
    /// A look-up is under way, maybe of a fetch that was given up.
    is_looking: AtomicBool,
}

impl PartialEq for KeyUrl {
    /// Whether the same keys come from there.
    fn eq(&self, other: &KeyUrl) -> bool {
        (&self.iss, &self.algorithms, &self.url, &self.authorities)
            == (&other.iss, &other.algorithms, &other.url, &other.authorities)
    }
}

impl KeyUrl {
    /// That of an issuer with these algorithms; none if its keys are in a file. `read` reads the file of authorities.
    ///
    /// # Errors
    /// What is wrong with that.
    pub fn of(
        issuer: &Issuer,
        algorithms: Vec<Algorithm>,
        read: impl FnOnce(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Option<KeyUrl>, String> {
        let Some(url) = jwks_url(&issuer.jwks_url) else { return Ok(None) };
        let authorities = match &issuer.jwks_ca_file {
            Some(path) => {
                let refused = |why: &str| format!("auth.issuers.jwks_ca_file = \"{}\" {why}", path.display());
                let bytes = read(path)?;
                let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
                let certificates = certificates.map_err(|_| refused("is not PEM"))?;
                let (count, _) = RootCertStore::empty().add_parsable_certificates(certificates.clone());
                if count == 0 {
                    return Err(refused("holds no certificate of an authority"));
                }
                Some(certificates)
            }
            None => None,
        };
        let iss = issuer.iss.as_str().into();
        Ok(Some(KeyUrl { iss, algorithms, url, authorities, is_looking: AtomicBool::new(false) }))
    }

    fn is_secured(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Where the name leads, and how the server proves that it is whom it is taken for.
    fn look_up(&self) -> Result<(Vec<SocketAddr>, Option<Arc<ClientConfig>>), FetchError> {
        let port = self.url.port_or_known_default().expect("the key was checked");
        let addresses: Vec<SocketAddr> = match self.url.host().expect("the key was checked") {
            Host::Domain(name) => (name, port).to_socket_addrs().map_err(FetchError::LookUp)?.collect(),
            Host::Ipv4(address) => vec![(address, port).into()],
            Host::Ipv6(address) => vec![(address, port).into()],
        };
        // In clear only to this machine, whatever its names are made to mean.
        let may_be = |address: &SocketAddr| self.is_secured() || address.ip().is_loopback();
        let addresses: Vec<SocketAddr> = addresses.into_iter().filter(may_be).take(ADDRESSES_MAX).collect();
        if addresses.is_empty() {
            return Err(FetchError::NoAddress);
        }
        Ok((addresses, if self.is_secured() { Some(self.tls()?) } else { None }))
    }

    /// Read anew each time: what the machine trusts changes while the broker runs.
    fn tls(&self) -> Result<Arc<ClientConfig>, FetchError> {
        let certificates = match &self.authorities {
            Some(certificates) => certificates.clone(),
            None => rustls_native_certs::load_native_certs().certs,
        };
        let mut authorities = RootCertStore::empty();
        let (count, _) = authorities.add_parsable_certificates(certificates);
        if count == 0 {
            return Err(FetchError::NoAuthorities);
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config
            .expect("the provider has what both versions need")
            .with_root_certificates(authorities)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl fmt::Display for KeyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A query may hold what is nobody else's to know.
        f.write_str(&self.url[..Position::AfterPath])
    }
}

/// What was fetched.
#[derive(Debug)]
pub struct Fetched {
    /// The body of the answer.
    pub body: Bytes,
    /// For how long it may be kept, if that is said.
    pub life: Option<Duration>,
}

/// Why nothing was.
#[derive(Debug)]
pub enum FetchError {
    /// It took longer than [`LIMIT`].
    TooSlow,
    /// There is no thread to look a name up.
    Thread(io::Error),
    /// The name was not found.
    LookUp(io::Error),
    /// The last look-up is not over.
    StillLooking,
    /// It leads nowhere, or for `http://` not to this machine.
    NoAddress,
    /// Nobody can vouch for the server.
    NoAuthorities,
    /// It is not reached.
    Connect(SocketAddr, io::Error),
    /// It is not who it should be, or does not speak TLS.
    Tls(io::Error),
    /// It does not speak HTTP, or went away.
    Http(hyper::Error),
    /// It answers something else than 200.
    Status(StatusCode),
    /// It points elsewhere.
    Redirect(StatusCode, String),
    /// It sends too much.
    TooLong,
    /// It goes away before all is there.
    Cut,
}

/// Fetches the keys from there, within `limit`.
///
/// # Errors
/// Why there are none.
pub async fn fetch(from: &Arc<KeyUrl>, limit: Duration) -> Result<Fetched, FetchError> {
    time::timeout(limit, fetch_slowly(from)).await.unwrap_or(Err(FetchError::TooSlow))
}

async fn fetch_slowly(from: &Arc<KeyUrl>) -> Result<Fetched, FetchError> {
    let (addresses, tls) = look_up(from).await?;
    let stream = connect(&addresses).await?;
    match tls {
        Some(tls) => {
            let host = from.url.host_str().expect("the key was checked").trim_matches(['[', ']']);
            let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::NoAddress)?;
            let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(FetchError::Tls)?;
            exchange(&from.url, stream).await
        }
        None => exchange(&from.url, stream).await,
    }
}

async fn look_up(from: &Arc<KeyUrl>) -> Result<(Vec<SocketAddr>, Option<Arc<ClientConfig>>), FetchError> {
    // Its thread goes on where nobody waits for it any more: there is to be one.
    if from.is_looking.swap(true, Ordering::AcqRel) {
        return Err(FetchError::StillLooking);
    }
    let (found, answer) = oneshot::channel();
    let asked = Arc::clone(from);
    let looking = thread::Builder::new().name("look-up".into()).spawn(move || {
        let result = asked.look_up();
        asked.is_looking.store(false, Ordering::Release);
        // Whoever asked may have given up.
        let _ = found.send(result);
    });
    if let Err(error) = looking {
        from.is_looking.store(false, Ordering::Release);
        return Err(FetchError::Thread(error));
    }
    answer.await.unwrap_or(Err(FetchError::NoAddress))
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, FetchError> {
    let mut failed = FetchError::NoAddress;
    for address in addresses {
        let stream = time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
        let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match stream {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = FetchError::Connect(*address, error),
        }
    }
    Err(failed)
}

async fn exchange<S>(url: &Url, stream: S) -> Result<Fetched, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(FetchError::Http)?;
    let request = Request::get(&url[Position::BeforePath..Position::AfterQuery])
        .header(HOST, &url[Position::BeforeHost..Position::AfterPort])
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, concat!("fanfare/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::new())
        .expect("what a URL is made of is of what a request may be");
    let answering = async {
        let answer = sender.send_request(request).await.map_err(FetchError::Http)?;
        if answer.status().is_redirection() {
            let place = answer.headers().get(LOCATION).map(|place| String::from_utf8_lossy(place.as_bytes()));
            let place = place.unwrap_or_default().chars().take(TOLD_MAX).collect();
            return Err(FetchError::Redirect(answer.status(), place));
        }
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        let life = life(answer.headers());
        let body = Limited::new(answer.into_body(), KEYS_BYTES_MAX).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => FetchError::TooLong,
            false => FetchError::Cut,
        })?;
        Ok(Fetched { body: body.to_bytes(), life })
    };
    let (mut connection, mut answering) = (pin!(connection), pin!(answering));
    tokio::select! {
        biased;
        answer = &mut answering => answer,
        // What has come is still to be taken.
        ended = &mut connection => match ended {
            Ok(()) => answering.await,
            Err(error) => Err(FetchError::Http(error)),
        },
    }
}

/// For how long an answer may be kept (RFC 9111 section 5.2.2.1).
fn life(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers.get_all(CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
    let directives = directives.flat_map(|line| line.split(',')).filter_map(|it| it.trim().split_once('='));
    let mut ages = directives.filter(|(name, _)| name.eq_ignore_ascii_case("max-age"));
    ages.find_map(|(_, seconds)| u64::from_str(seconds.trim_matches('"')).ok()).map(Duration::from_secs)
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::TooSlow => write!(f, "it took longer than {} s", LIMIT.as_secs()),
            FetchError::Thread(error) => write!(f, "there is no thread to look its name up: {error}"),
            FetchError::LookUp(error) => write!(f, "its name was not found: {error}"),
            FetchError::StillLooking => f.write_str("its name is still being looked up"),
            FetchError::NoAddress => {
                f.write_str("its name has no address, or for http:// none of this machine")
            }
            FetchError::NoAuthorities => f.write_str(
                "this machine trusts no authority: install ca-certificates, or set auth.issuers.jwks_ca_file",
            ),
            FetchError::Connect(address, error) => write!(f, "{address} is not reached: {error}"),
            FetchError::Tls(error) => write!(f, "no TLS: {error}"),
            FetchError::Http(error) => write!(f, "no answer over HTTP: {error}"),
            FetchError::Status(status) => write!(f, "the answer is {status}; 200 is needed"),
            FetchError::Redirect(status, place) => write!(
                f,
                "the answer is {status} to \"{}\"; where keys are has to be set, and is not followed",
                place.escape_debug()
            ),
            FetchError::TooLong => write!(f, "more than {KEYS_BYTES_MAX} bytes"),
            FetchError::Cut => f.write_str("the answer was cut off"),
        }
    }
}

impl std::error::Error for FetchError {}

#[cfg(test)]
mod tests;
