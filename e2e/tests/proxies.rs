//! What both proxies do alike with what passes through them.

use interlock_e2e::stage::{Stage, Way};
use interlock_e2e::{Call, Result, World, ensure, ensure_eq, http};

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_headers_are_overwritten_and_requests_have_an_id() -> Result {
    World::run("headers", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let host = world.host("shop");
        stage.app("one").label("interlock.host", &host).start().await?;
        stage.serves(&host, "/", "one").await?;
        for proxy in &stage.proxies {
            let kind = proxy.kind.as_str();
            let call = Call::get(proxy.http, &host, "/").header("x-forwarded-for", "6.6.6.6");
            let call = call.header("x-forwarded-proto", "https").header("x-forwarded-host", "evil.test");
            let answer = call.send().await?.expect(200)?.json()?;
            let headers = &answer["headers"];
            ensure!(
                !headers.to_string().contains("6.6.6.6"),
                "{kind}: a stranger's address was believed: {headers}"
            );
            ensure!(
                !headers.to_string().contains("evil.test"),
                "{kind}: a stranger's host was believed: {headers}"
            );
            ensure_eq!(headers["x-forwarded-proto"][0], "http", "{kind}: the scheme");
            ensure!(
                headers["x-forwarded-for"][0].as_str().is_some_and(|by| !by.is_empty()),
                "{kind}: {headers}"
            );
            let id = answer["requestId"].as_str().unwrap_or_default().to_owned();
            ensure!(!id.is_empty(), "{kind}: no request id: {headers}");
            interlock_e2e::eventually(
                interlock_e2e::stage::SOON,
                &format!("{kind}: a log line with the id"),
                async || {
                    let logs = proxy.container.logs().await?;
                    let line = logs.lines().find(|line| line.contains(&id)).ok_or("no line")?;
                    let line = &line[line.find('{').ok_or("no JSON")?..];
                    let entry: serde_json::Value = serde_json::from_str(line)?;
                    ensure!(entry.to_string().contains("200"), "{entry}");
                    Ok(())
                },
            )
            .await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_event_streams_and_large_bodies_pass() -> Result {
    World::run("streams", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let host = world.host("shop");
        stage
            .app("one")
            .label("interlock.host", &host)
            .label("interlock.websocket_endpoint", "/ws")
            .start()
            .await?;
        stage.serves(&host, "/", "one").await?;
        for proxy in &stage.proxies {
            let kind = proxy.kind.as_str();
            let request = format!(
                "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            let stream = tokio::net::TcpStream::connect(proxy.http).await?;
            let echo =
                http::upgrade(stream, &request, "ping").await.map_err(|error| format!("{kind}: {error}"))?;
            ensure!(echo.ends_with("ping"), "{kind}: {echo}");
            let events = http::get(proxy.http, &host, "/sse?count=3&ms=50").await?;
            ensure_eq!(events.text(), "data: 0\n\ndata: 1\n\ndata: 2\n\n", "{kind}: events");
            let large = http::get(proxy.http, &host, "/large?bytes=20000000").await?.expect(200)?;
            ensure_eq!(large.body.len(), 20_000_000, "{kind}: a large answer");
            // nginx alone would refuse more than 1 MB.
            let posted =
                Call::post(proxy.http, &host, "/count?id=large", vec![b'x'; 8_000_000]).send().await?;
            ensure_eq!(posted.expect(200)?.json()?["bytes"], 8_000_000, "{kind}: a large request");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_proxies_themselves() -> Result {
    World::run("pages", async |world| {
        let stage = Stage::new(world, Way::Stock).await?;
        let host = world.host("shop");
        stage.app("one").label("interlock.host", &host).start().await?;
        stage.serves(&host, "/", "one").await?;
        let haproxy = stage.proxy(interlock_e2e::Kind::Haproxy)?;
        http::get(haproxy.http, "anything.test", "/haproxy?monitor").await?.expect(200)?;
        // No user and password are set: there is no such page.
        let page = http::get(haproxy.http, "anything.test", "/haproxy?stats").await?;
        ensure!(page.status != 200 && page.status != 401, "{}: {}", page.status, page.text());
        let nginx = stage.proxy(interlock_e2e::Kind::Nginx)?;
        let status = http::get(nginx.http, "anything.test", "/nginx_status").await?;
        ensure!(status.status == 403 || status.status == 404, "{}: {}", status.status, status.text());
        Ok(())
    })
    .await
}
