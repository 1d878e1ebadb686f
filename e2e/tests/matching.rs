//! One table of requests; both proxies must give the same answers.

use interlock_e2e::stage::{Stage, Way};
use interlock_e2e::{Result, World, http};

#[tokio::test(flavor = "multi_thread")]
async fn both_proxies_match_alike() -> Result {
    World::run("match", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let (host, wild) = (world.host("shop"), world.host("wild"));
        stage.app("root").label("interlock.host", &host).start().await?;
        stage.app("app").label("interlock.host", &host).label("interlock.path", "/app").start().await?;
        stage
            .app("admin")
            .label("interlock.host", &host)
            .label("interlock.path", "/app/admin")
            .start()
            .await?;
        stage.app("wild").label("interlock.host", &format!("*.{wild}")).start().await?;
        stage.serves(&host, "/app/admin", "admin").await?;
        stage.serves(&host, "/app", "app").await?;
        stage.serves(&host, "/", "root").await?;
        stage.serves(&format!("a.{wild}"), "/", "wild").await?;

        let upper = host.to_uppercase();
        let table: Vec<(String, &str)> = vec![
            (get("/", &host), "200 root"),
            (get("/", &upper), "200 root"),
            (get("/", &format!("{host}:8080")), "200 root"),
            (get("/", &format!("{host}.")), "200 root"),
            (get("/", &format!("{host}.:80")), "200 root"),
            (get("/app", &host), "200 app"),
            (get("/app/", &host), "200 app"),
            (get("/app?x=/app/admin", &host), "200 app"),
            (get("/apple", &host), "200 root"),
            (get("/app/administrator", &host), "200 app"),
            (get("/app/admin", &host), "200 admin"),
            (get("/app/admin/x", &host), "200 admin"),
            (get("//app", &host), "200 app"),
            (get("/x/../app", &host), "200 app"),
            (get("/./app", &host), "200 app"),
            (get("/x/%2e%2e/app", &host), "200 app"),
            (get("/%61pp", &host), "200 app"),
            (get("/app/%2e%2e/", &host), "200 root"),
            (get("/APP", &host), "200 root"),
            (get("/", &format!("a.{wild}")), "200 wild"),
            (get("/", &format!("b.a.{wild}")), "200 wild"),
            (get("/", &wild), "404"),
            (get("/", "unknown.test"), "404"),
            (get("/", &format!("{host}/app")), "400"),
            (get("/", &format!("{host} x")), "400"),
            (get("/", "under_score.test"), "400"),
            (get("/", ""), "400"),
            ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), "400"),
            (format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n"), "200 root"),
            (
                format!("GET http://{host}/app HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
                "200 app",
            ),
            (
                format!("GET /app HTTP/1.1\r\nHost: {host}\r\nHost: other.test\r\nConnection: close\r\n\r\n"),
                "400",
            ),
        ];
        let mut wrong = Vec::new();
        for (request, expected) in &table {
            for proxy in &stage.proxies {
                let answer = http::raw(proxy.http, request).await?;
                let got = judged(&answer);
                if got != *expected {
                    wrong.push(format!("{}: {request:?}: {got}, not {expected}", proxy.kind.as_str()));
                }
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
    })
    .await
}

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// The status, and the app's name if an app answered.
fn judged(answer: &str) -> String {
    let status = http::raw_status(answer);
    match answer.split("\"name\":\"").nth(1).and_then(|rest| rest.split('"').next()) {
        Some(app) => format!("{status} {app}"),
        None => status.to_string(),
    }
}
