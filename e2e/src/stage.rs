//! A world with an operator and proxies in it, reached in each of the three ways that one machine has.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crate::world::Kind;
use crate::{Answer, Call, Container, Network, Operator, Result, World, ensure_eq, eventually, operator};

/// A change must have reached every proxy by then.
pub const SOON: Duration = Duration::from_mins(1);

/// One try's share of it: an endpoint that hangs must not use all of it up.
const TRY: Duration = Duration::from_secs(2);

/// Good answers in a row that count as "it serves".
const IN_A_ROW: usize = 5;

/// How the operator reaches the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Stock images, over Docker exec.
    Stock,
    /// Images with the agent as entry point, over a unix socket on a shared volume.
    Agents,
    /// Operator and proxy in one container, over a socket pair.
    Embedded,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Stock, Self::Agents, Self::Embedded];
}

/// A proxy of the stage.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Which.
    pub kind: Kind,
    /// Its container.
    pub container: Container,
    /// Its HTTP port, on its own address.
    pub http: SocketAddr,
}

/// An operator and proxies in one network.
#[derive(Debug)]
pub struct Stage<'w> {
    /// The world.
    pub world: &'w World,
    /// The network of proxies and apps.
    pub network: Network,
    /// The operators: one, or one for each embedded proxy.
    pub operators: Vec<Operator>,
    /// The proxies.
    pub proxies: Vec<Proxy>,
}

/// Waits until a proxy runs what Interlock gave it, and returns its HTTP port. Only then does it keep its address: a
/// stock HAProxy ends for want of a configuration and is started again by the operator.
pub async fn serving(proxy: &Container, network: &str) -> Result<SocketAddr> {
    eventually(SOON, &format!("{} serves", proxy.name), async || {
        let at = proxy.at(network, 80).await?;
        let answer = Call::get(at, "nobody-asked-for-this.test", "/").within(TRY).send().await?;
        ensure_eq!(answer.status, 404, "the answer for an unknown host");
        Ok(at)
    })
    .await
}

impl<'w> Stage<'w> {
    /// Both proxies, reached in one way, with the default configuration.
    pub async fn new(world: &'w World, way: Way) -> Result<Self> {
        Self::with(world, way, &Kind::ALL, json!({})).await
    }

    /// Some proxies, reached in one way, with settings of the configuration file.
    pub async fn with(world: &'w World, way: Way, kinds: &[Kind], config: serde_json::Value) -> Result<Self> {
        let network = world.network("net").await?;
        let mut stage = Self { world, network, operators: Vec::new(), proxies: Vec::new() };
        let agents = match way {
            Way::Agents => format!("{}:/run/interlock/agents", world.volume("agents").await?),
            Way::Stock | Way::Embedded => String::new(),
        };
        let operator = || Operator::of(world).config(config.clone());
        match way {
            Way::Stock => stage.operators.push(operator().start().await?),
            Way::Agents => {
                let operator = operator().volume(&agents).argument("--read-only-docker");
                stage.operators.push(operator.start().await?);
            }
            Way::Embedded => {}
        }
        for kind in kinds {
            let container = match way {
                Way::Stock => world.proxy(*kind, &stage.network).start().await?,
                Way::Agents => {
                    let run = world.container(kind.as_str(), kind.agent()).network(&stage.network);
                    run.label("interlock.ext.name", kind.as_str()).volume(&agents).start().await?
                }
                Way::Embedded => {
                    let operator = operator().embedded(*kind, &stage.network).start().await?;
                    stage.operators.push(operator.clone());
                    operator.container
                }
            };
            let http = serving(&container, &stage.network).await?;
            stage.proxies.push(Proxy { kind: *kind, container, http });
        }
        for operator in &stage.operators {
            operator.ready().await?;
        }
        Ok(stage)
    }

    /// An app of this stage's network that answers with its short name; started by the caller.
    pub fn app(&self, short: &str) -> crate::Run<'w> {
        self.world.app(short, &self.network)
    }

    /// The operator; the first where there are several.
    pub fn operator(&self) -> &Operator {
        &self.operators[0]
    }

    /// The proxy of a kind.
    pub fn proxy(&self, kind: Kind) -> Result<&Proxy> {
        Ok(self.proxies.iter().find(|proxy| proxy.kind == kind).ok_or("no such proxy on this stage")?)
    }

    /// Waits until every proxy answers this host and path with this app.
    pub async fn serves(&self, host: &str, path: &str, app: &str) -> Result {
        self.until(host, path, &format!("{app} serves"), |answer| {
            ensure_eq!(answer.app()?, app, "the app");
            Ok(())
        })
        .await
    }

    /// Waits until every proxy answers this host and path with this status.
    pub async fn answers(&self, host: &str, path: &str, status: u16) -> Result {
        self.until(host, path, &format!("{status} is answered"), |answer| {
            ensure_eq!(answer.status, status, "the status");
            Ok(())
        })
        .await
    }

    /// Waits until each of these apps, and no other, has answered twenty times in a row on every proxy.
    pub async fn shared_by(&self, host: &str, path: &str, apps: &[&str]) -> Result {
        for proxy in &self.proxies {
            let what = format!("{}: {host}{path} is shared by {apps:?}", proxy.kind.as_str());
            eventually(SOON, &what, async || {
                let mut seen = std::collections::BTreeSet::new();
                for _ in 0..20 {
                    seen.insert(
                        Call::get(proxy.http, host, path).within(TRY).send().await?.expect(200)?.app()?,
                    );
                }
                ensure_eq!(seen, apps.iter().map(|app| (*app).to_owned()).collect(), "the apps");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until every proxy's answer passes a judgement.
    pub async fn until(
        &self,
        host: &str,
        path: &str,
        what: &str,
        judge: impl Fn(&Answer) -> Result,
    ) -> Result {
        for proxy in &self.proxies {
            let what = format!("{}: {host}{path}: {what}", proxy.kind.as_str());
            eventually(SOON, &what, async || {
                // Several in a row: while nginx reloads, a worker of before may still take a connection.
                for _ in 0..IN_A_ROW {
                    judge(&Call::get(proxy.http, host, path).within(TRY).send().await?)?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Asks every proxy once.
    pub async fn each(&self, host: &str, path: &str, judge: impl Fn(Kind, &Answer) -> Result) -> Result {
        for proxy in &self.proxies {
            let answer = Call::get(proxy.http, host, path).send().await?;
            judge(proxy.kind, &answer)
                .map_err(|error| format!("{}: {host}{path}: {error}", proxy.kind.as_str()))?;
        }
        Ok(())
    }

    /// The sum of a metric over the operators.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let mut total = 0.0;
        for operator in &self.operators {
            total += operator::sum(&operator.metrics().await?, name, labels);
        }
        Ok(total)
    }
}
