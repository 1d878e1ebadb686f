//! Proxies in narrow containers: `maxconn` and `worker_connections` fit, and connections end nobody.

use std::net::SocketAddr;

use interlock_core::capacity::fit;
use interlock_core::protocol::Limits;
use interlock_crds::{ProxyKind, ServiceClusterSpec};
use interlock_e2e::stage::{SOON, serving};
use interlock_e2e::world::Kind;
use interlock_e2e::{Call, Container, Operator, Result, World, ensure, ensure_eq, eventually};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

const MEMORY: i64 = 128 * 1024 * 1024;
/// More than fit into 1,024 files, and few enough for the test's own.
const CLIENTS: usize = 600;

/// Few files, and as many as the engine gives: 2^30 is what some engines give by themselves, others refuse it.
const FILES: [&[i64]; 2] = [&[1_024], &[1 << 30, 1 << 20, 500_000, 20_000, 4_096]];

/// Starts a stock proxy with the first of these limits that the engine gives.
async fn start(world: &World, kind: Kind, network: &str, files: &[i64]) -> Result<(Container, i64)> {
    let mut refused = String::new();
    for most in files {
        let proxy = world.container(&format!("{}-{most}", kind.as_str()), kind.stock()).network(network);
        let proxy = proxy.label("interlock.ext.name", kind.as_str()).open_files(*most).memory(MEMORY);
        let proxy = proxy.create().await?;
        match proxy.start().await {
            Ok(()) => return Ok((proxy, *most)),
            Err(error) => refused = error.to_string(),
        }
        proxy.remove().await?;
    }
    Err(format!("no limit of {files:?} can be had: {refused}").into())
}

/// Its main file.
async fn configuration(proxy: &Container, kind: Kind) -> Result<String> {
    let name = match kind {
        Kind::Haproxy => "haproxy.cfg",
        Kind::Nginx => "etc/nginx/nginx.conf",
    };
    let files = proxy.export().await?;
    let found = files.into_iter().find(|(path, _)| path.ends_with(name)).ok_or("no configuration")?;
    Ok(String::from_utf8(found.1)?)
}

/// What must stand there by the documented rule; none: nothing, the proxy's own default fits.
fn expected(kind: Kind, files: i64) -> Result<Option<String>> {
    let proxy = match kind {
        Kind::Haproxy => ProxyKind::Haproxy,
        Kind::Nginx => ProxyKind::Nginx,
    };
    let stat = std::fs::read_to_string("/proc/stat")?;
    let processors = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    let limits = Limits {
        memory: Some(MEMORY.try_into()?),
        files: files.try_into()?,
        processors: processors.try_into()?,
        ipv4_only: false,
    };
    let capacity = fit(&ServiceClusterSpec::implicit(proxy), limits);
    Ok(capacity.max_connections.map(|most| match kind {
        Kind::Haproxy => format!("    maxconn {most}\n"),
        // nginx counts the connections to endpoints too, and its own.
        Kind::Nginx => format!("worker_connections {};", most * 2 + 64),
    }))
}

/// Many clients at once, each with a request, none of which leaves.
async fn crowd(at: SocketAddr, host: &str) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        // A proxy that is full may refuse or close.
        let Ok(mut client) = TcpStream::connect(at).await else { continue };
        let _ = client.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
        clients.push(client);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_fit_their_containers() -> Result {
    World::run("limits", async |world| {
        let network = world.network("net").await?;
        let _operator = Operator::of(world).ready().await?;
        let host = world.host("shop");
        world.app("shop", &network).label("interlock.host", &host).start().await?;
        for (kind, files) in Kind::ALL.into_iter().flat_map(|kind| FILES.map(|files| (kind, files))) {
            let (proxy, files) = start(world, kind, &network, files).await?;
            let what = format!("{} with {files} files", kind.as_str());
            let at = serving(&proxy, &network).await?;
            let serves = async || {
                ensure_eq!(Call::get(at, &host, "/").send().await?.app()?, "shop", "{what}");
                Ok(())
            };
            eventually(SOON, &what, serves).await?;
            let text = configuration(&proxy, kind).await?;
            match expected(kind, files)? {
                Some(words) => ensure!(text.contains(&words), "{what}: no `{words}`"),
                None => ensure!(!text.contains(" maxconn "), "{what}: a maxconn"),
            }
            let log = proxy.logs().await?;
            ensure!(!log.contains("setrlimit"), "{what}: more files than there are: {log}");
            let before = proxy.inspect().await?.state.and_then(|state| state.pid);
            let crowd = crowd(at, &host).await;
            ensure!(!crowd.is_empty(), "{what}: nobody was let in");
            let state = proxy.inspect().await?.state.ok_or("no state")?;
            ensure_eq!((state.running, state.oom_killed), (Some(true), Some(false)), "{what}");
            ensure_eq!(state.pid, before, "{what}: it was started again");
            drop(crowd);
            eventually(SOON, &what, serves).await?;
        }
        Ok(())
    })
    .await
}
