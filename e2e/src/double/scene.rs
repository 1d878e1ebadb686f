//! A double with routes that are served, an operator, and its proxy: what tests and benches of many routes start from.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{App, Bystander, Double, Hosted, Member, Wish};
use crate::world::Kind;
use crate::{Result, ensure};

/// Routed containers behind a proxy that is in step.
pub struct Scene {
    /// The engine.
    pub double: Double,
    /// The operator and its proxy.
    pub hosted: Hosted,
    /// The containers of the routes that were there from the beginning, with what they ask for and their applications.
    pub apps: Vec<(Wish, Member, App)>,
}

/// A client asks for this long before anything happens.
const EARLY: Duration = Duration::from_millis(20);

/// How a container came to answer.
pub struct Alive {
    /// From the later of its start event's arrival at a bystander and its first accept, to its first answer.
    pub took: Duration,
    /// What the event needed to the bystander.
    pub heard: Duration,
    /// The container.
    pub member: Member,
    /// Its application.
    pub app: App,
}

/// How a container was taken out of rotation.
pub struct Left {
    /// From the arrival of its stop signal's event at a bystander to its last answer.
    pub took: Duration,
    /// What the event needed to the bystander.
    pub heard: Duration,
}

/// The host of a route that is there from the beginning.
pub fn host(number: usize) -> String {
    format!("app-{number}.example.test")
}

impl Scene {
    /// `routes` hosts, each of one container, under an operator that sees them all at its start.
    pub async fn with(binary: &Path, kind: Kind, routes: usize, spec: Value) -> Result<Self> {
        Self::of(binary, kind, (0..routes).map(|number| Wish::of(&host(number))).collect(), spec).await
    }

    /// One container for each wish, under an operator that sees them all at its start; all of them served.
    pub async fn of(binary: &Path, kind: Kind, wishes: Vec<Wish>, spec: Value) -> Result<Self> {
        let scene = Self::begun(binary, kind, wishes, spec).await?;
        scene.all_served().await?;
        Ok(scene)
    }

    /// The same before anything is served: the operator has just been started.
    pub async fn begun(binary: &Path, kind: Kind, wishes: Vec<Wish>, spec: Value) -> Result<Self> {
        let double = Double::start()?;
        let mut apps = Vec::with_capacity(wishes.len());
        for wish in wishes {
            let member = double.create(wish.host(), &wish);
            let app = App::listen(wish.host(), member.at).await?;
            double.set_running(&member);
            apps.push((wish, member, app));
        }
        let hosted = Hosted::start(binary, &double, kind, spec)?;
        Ok(Self { double, hosted, apps })
    }

    /// Waits until every container's own application answers.
    pub async fn all_served(&self) -> Result {
        for (wish, ..) in &self.apps {
            self.hosted.serves(&wish.url(), wish.host()).await?;
        }
        Ok(())
    }

    /// A container with an application that listens already starts: until its first answer for what it
    /// asks for, be that new or served by others too. It stays.
    pub async fn comes_alive(&self, bystander: &Bystander, wish: &Wish, name: &str) -> Result<Alive> {
        let member = self.double.create(name, wish);
        let app = App::listen(name, member.at).await?;
        let url = wish.url();
        let asking = self.hosted.answered_by(&url, name);
        tokio::pin!(asking);
        // The first tries are under way before anything happens.
        let early = tokio::time::timeout(EARLY, &mut asking).await;
        ensure!(early.is_err(), "{name} answers for {url} before it runs");
        let told = self.double.run(&member);
        let answered = asking.await?;
        let heard = bystander.heard(&member.id, "start").await?;
        let accepted = app.first_accept().ok_or("it answers and accepted nothing")?;
        Ok(Alive {
            took: answered.saturating_duration_since(heard.max(accepted)),
            heard: heard.saturating_duration_since(told),
            member,
            app,
        })
    }

    /// A container is sent its stop signal: until its last answer for a URL.
    pub async fn leaves(
        &self,
        bystander: &Bystander,
        url: &str,
        name: &str,
        member: &Member,
    ) -> Result<Left> {
        let asking = self.hosted.last_answered_by(url, name);
        tokio::pin!(asking);
        let early = tokio::time::timeout(EARLY, &mut asking).await;
        ensure!(early.is_err(), "{name} does not answer for {url}");
        let told = self.double.stop_signal(member);
        let last = asking.await?;
        let heard = bystander.heard(&member.id, "kill").await?;
        Ok(Left { took: last.saturating_duration_since(heard), heard: heard.saturating_duration_since(told) })
    }
}
