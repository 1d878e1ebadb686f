//! A proxy of the Docker socket that lets nothing pass but reading; what else was tried is counted and logged.
//!
//! `docker-filter UPSTREAM-SOCKET SOCKET`. Each refused request is one line `violation METHOD PATH` on standard
//! output and is answered with 403.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};

type Body = BoxBody<Bytes, hyper::Error>;

fn log(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(upstream), Some(socket)) = (arguments.next(), arguments.next()) else {
        log("usage: docker-filter UPSTREAM-SOCKET SOCKET");
        return ExitCode::FAILURE;
    };
    match serve(&upstream, Path::new(&socket)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&format!("error {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(upstream: &str, socket: &Path) -> std::io::Result<()> {
    // A socket that a run before left behind.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    log("listening");
    loop {
        let (stream, _) = listener.accept().await?;
        let upstream = upstream.to_owned();
        tokio::spawn(async move {
            let service = service_fn(move |request| forward(upstream.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn reply(status: StatusCode, text: &str) -> Response<Body> {
    let body = serde_json::json!({ "message": text }).to_string();
    let mut response = Response::new(Full::from(body).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
}

async fn forward(upstream: String, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        log(&format!("violation {} {}", request.method(), request.uri().path()));
        return Ok(reply(StatusCode::FORBIDDEN, &format!("{} is not let through", request.method())));
    }
    let stream = match UnixStream::connect(&upstream).await {
        Ok(stream) => stream,
        Err(error) => return Ok(reply(StatusCode::BAD_GATEWAY, &error.to_string())),
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?.map(BodyExt::boxed))
}
