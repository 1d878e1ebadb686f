//! What newer versions of the proxies can do and the oldest cannot: tried where the machine's own version has it.
//!
//! The matrix of versions (`make test-matrix`) sets `INTERLOCK_EXERCISED` to a folder in which each ability that was
//! exercised leaves a file, and asks at its end whether all did.

use std::path::PathBuf;

use interlock_core::assign::afresh;
use interlock_core::model::UpstreamAddr;
use interlock_core::plan::{Ability, Plan};
use interlock_core::render::{Templates, render};
use interlock_crds::{ListenersSpec, ProxyKind};
use interlock_e2e::bare::{self, Echo, Proxy, Secrets};
use interlock_e2e::{Load, Result, ensure};

/// The folder of what was exercised.
fn exercised() -> Option<PathBuf> {
    std::env::var_os("INTERLOCK_EXERCISED").map(PathBuf::from)
}

/// Leaves the ability's file.
fn mark(ability: Ability) -> Result {
    if let Some(folder) = exercised() {
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(ability.as_str()), "")?;
    }
    Ok(())
}

fn nginx(app: &Echo) -> Result<Proxy> {
    let mut plan: Plan = serde_yaml::from_str(
        "
        target: bare
        cluster: bare
        settings: { proxy: nginx }
        routes: [{ host: a.test, path: /, backend: { host: a.test, path: / } }]
        backends: [{ id: { host: a.test, path: / }, endpoints: [{ address: '127.0.0.1:1', name: app }] }]
        ",
    )?;
    plan.backends[0].change().endpoints[0].address = UpstreamAddr::try_from(app.address)?;
    let abilities = bare::abilities(ProxyKind::Nginx)?;
    Ok(Proxy::start(&Secrets::new(), |http, https| {
        plan.settings.listeners = ListenersSpec { http, https, ..plan.settings.listeners };
        render(&plan, &afresh(&plan, None), abilities, &Templates::embedded()).expect("it renders")
    })?)
}

/// nginx from 1.27.4 on: reloads under kept connections lose nothing. Before it, what they cost is not asked.
#[tokio::test(flavor = "multi_thread")]
async fn reloads_of_nginx_lose_no_kept_connection() -> Result {
    let ability = Ability::KeepAliveMinTimeout;
    if !bare::abilities(ProxyKind::Nginx)?.has(ability) {
        return Ok(());
    }
    let app = Echo::start("app")?;
    let proxy = nginx(&app)?;
    let load = Load::closed(proxy.http, "a.test", 4).keep_alive().start();
    for _ in 0..10 {
        load.answers(50).await?;
        proxy.reload_whole()?;
    }
    load.answers(50).await?;
    load.stop().await?.is_clean()?;
    mark(ability)
}

/// The checker of nginx takes the directive without a word; HTTP/2 itself is in the matching table.
#[test]
fn http2_is_a_directive_where_nginx_has_it() -> Result {
    let ability = Ability::Http2Directive;
    if !bare::abilities(ProxyKind::Nginx)?.has(ability) {
        return Ok(());
    }
    let app = Echo::start("app")?;
    let proxy = nginx(&app)?;
    let said = proxy.errors()?;
    ensure!(!said.contains("deprecated"), "nginx complains: {said}");
    mark(ability)
}

/// The end of the matrix: an ability that no version of it has is a failure.
#[test]
#[ignore = "only the matrix knows what was exercised"]
fn every_ability_was_exercised() -> Result {
    let folder = exercised().ok_or("INTERLOCK_EXERCISED is not set")?;
    let missing: Vec<_> =
        Ability::ALL.into_iter().filter(|ability| !folder.join(ability.as_str()).exists()).collect();
    ensure!(missing.is_empty(), "no version here has {missing:?}");
    Ok(())
}
