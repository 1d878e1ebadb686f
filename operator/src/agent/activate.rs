//! Activation: the one reload or the live commands that a staged generation takes, confirmed or undone.

use std::time::{Duration, Instant};

use interlock_core::bundle::Live;
use interlock_crds::ProxyKind;
use rustix::process::Signal;

use super::apply::{Stop, Work};
use super::commands::Commands;
use super::haproxy::Socket;
use super::keeper::{Keeper, Running};
use super::process::{self, Master};
use super::reloads::{self, Before, Predecessor};
use super::{POLL, nginx, ports};

/// A master that has listened without starting a worker for this long has lost the signal.
const UNANSWERED: Duration = Duration::from_secs(5);
/// Where no worker of nginx takes requests for this long, it was told to stop: in a reload the old ones do until the
/// new ones do, though a new one may not bear its title yet.
const DESERTED: Duration = Duration::from_millis(200);

/// Why a reload did not come to serve.
enum Unconfirmed {
    Failed(String),
    /// The proxy takes nothing new, and its files are to stay what it boots into.
    ToldToStop,
}

impl From<String> for Unconfirmed {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl From<&str> for Unconfirmed {
    fn from(why: &str) -> Self {
        Self::Failed(why.to_owned())
    }
}

impl Keeper {
    /// Drives the live part of what runs to the bundle's, and reads it back: the whole of it, or what differs from
    /// the bundle before.
    pub(super) async fn settle(
        &mut self,
        work: &Work<'_>,
        whole: bool,
        done: &mut Commands,
    ) -> Result<Live, String> {
        let bundle = work.bundle();
        if bundle.proxy == ProxyKind::Nginx {
            return Ok(bundle.live.clone());
        }
        let socket = Socket::of(work.main_after(), &self.options.run)
            .ok_or("the configuration has no runtime socket in the run folder")?;
        let before = work.before.as_ref().filter(|before| before.static_digest == bundle.static_digest);
        let before = before.map(AsRef::as_ref);
        let secrets = work.layout.secrets();
        // After a reload it is another one.
        self.remembered.answered = match &work.running {
            Running::Haproxy { worker } if !whole => worker.clone(),
            Running::Haproxy { .. } | Running::Nginx { .. } => None,
        };
        let driven = socket.drive(bundle, before, whole, secrets, &mut self.remembered, done).await;
        driven.map_err(|err| err.to_string())
    }

    /// Makes the proxy load the new main file; undoes the switch when it does not come to serve.
    pub(super) async fn activate(&mut self, work: &Work<'_>, done: &mut Commands) -> Result<Live, Stop> {
        let confirmed = match self.reload(work).await {
            Ok(()) => self.settle(work, true, done).await.map_err(Unconfirmed::Failed),
            Err(why) => Err(why),
        };
        match confirmed {
            Ok(live) => Ok(live),
            Err(Unconfirmed::Failed(why)) => Err(Stop::ActivationFailed(self.undo(work, why).await)),
            Err(Unconfirmed::ToldToStop) => {
                work.layout.restore(work.main_before.as_deref())?;
                Err(Stop::told_to_stop())
            }
        }
    }

    /// One reload signal, and then nothing until a new worker serves the digest.
    async fn reload(&self, work: &Work<'_>) -> Result<(), Unconfirmed> {
        let before = work.main_before.as_deref().filter(|_| work.master.is_some()).unwrap_or_default();
        let own = work.master.as_ref().map(|master| master.pid);
        if let Some(busy) = ports::busy(work.main_after(), &String::from_utf8_lossy(before), own) {
            return Err(busy.into());
        }
        let confirm = self.options.timing.confirm;
        if let Some(master) = &work.master
            && !reloads::settled(master, confirm).await
        {
            return Err("the proxy's master process has ended or has not come to rest".into());
        }
        let had = work.master.as_ref().map(Before::of);
        let old = work.master.as_ref().filter(|master| master.kind == ProxyKind::Haproxy);
        let old = old.and_then(|master| Some((master, Predecessor::of(master)?)));
        let mut signalled = Instant::now();
        match (&work.master, &self.supervisor) {
            (Some(master), _) if signal_reload(master) => {}
            (Some(_), None) => return Err("the proxy's master process has ended".into()),
            (_, Some(supervisor)) => supervisor.start_now(),
            (None, None) => return Err("no proxy runs here".into()),
        }
        let deadline = signalled + confirm;
        let mut deserted = None;
        let mut passes_through = work.keeps_boot();
        loop {
            if self.serves(work).await {
                if std::mem::take(&mut passes_through) {
                    work.layout.restore(work.main_before.as_deref())?;
                }
                if accepts_alone(work) {
                    if let Some((master, old)) = old {
                        self.handed_over(master, old).await;
                    }
                    return Ok(());
                }
            }
            if let Some(master) = &work.master {
                if !master.alive() {
                    return Err("the proxy's master process ended while it reloaded".into());
                }
                if had.as_ref().is_some_and(|had| had.failed(master)) {
                    return Err(
                        "the proxy could not start the new configuration; its own log says why".into()
                    );
                }
                if work.keeps_boot() {
                    let since = deserted.take().unwrap_or_else(Instant::now);
                    deserted = master.accepting_workers().is_empty().then_some(since);
                    if deserted.is_some() && since.elapsed() > DESERTED {
                        return Err(Unconfirmed::ToldToStop);
                    }
                }
                if signalled.elapsed() > UNANSWERED && reloads::idle_since(master, signalled) {
                    signal_reload(master);
                    signalled = Instant::now();
                }
            }
            if Instant::now() > deadline {
                let within = confirm.as_secs();
                return Err(format!("no new worker served the new configuration within {within} s").into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until every new connection meets the new worker. An old one that is never seen to stop has heard of it
    /// all the same, and the new one serves: that is no reason to undo anything.
    async fn handed_over(&self, master: &Master, mut old: Predecessor) {
        let deadline = Instant::now() + self.options.timing.handover;
        while master.alive() && !(self.old_was_told(master) && old.has_stopped()) {
            if Instant::now() > deadline {
                tracing::warn!(pid = old.pid, "an old worker may still take connections");
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn old_was_told(&self, master: &Master) -> bool {
        let version = self.version.as_ref().map(|(.., version)| version.abilities);
        !version.is_some_and(reloads::tells_later) || reloads::listens(master)
    }

    /// Whether a new worker serves the bundle.
    async fn serves(&self, work: &Work<'_>) -> bool {
        let bundle = work.bundle();
        let digest = Some(&bundle.static_digest);
        if bundle.proxy == ProxyKind::Nginx {
            let Some(port) = bundle.confirm_port else { return false };
            return nginx::digest(port).await.as_ref() == digest;
        }
        let Some(socket) = Socket::of(work.main_after(), &self.options.run) else { return false };
        let old = match &work.running {
            Running::Haproxy { worker } => worker.as_ref().map(|worker| worker.pid),
            Running::Nginx { .. } => None,
        };
        socket.worker().await.is_some_and(|now| Some(now.pid) != old && now.digest.as_ref() == digest)
    }

    /// Puts the last good files back, and the proxy too if it has left them; the whole story for people.
    async fn undo(&self, work: &Work<'_>, why: String) -> String {
        if let Err(err) = work.layout.restore(work.main_before.as_deref()) {
            return format!("{why}; and {err}");
        }
        let Some(before) = work.running.digest() else {
            return why;
        };
        let Ok(Some(master)) = self.master().await else {
            return why;
        };
        let now =
            self.running(Some(&master), &work.layout, work.before.as_deref(), work.before.as_deref()).await;
        let confirm = self.options.timing.confirm;
        // A signal that comes before the master has come to rest is lost.
        if now.digest() == Some(before)
            || !reloads::settled(&master, confirm).await
            || !signal_reload(&master)
        {
            return why;
        }
        let deadline = Instant::now() + confirm;
        while Instant::now() < deadline {
            let now = self
                .running(Some(&master), &work.layout, work.before.as_deref(), work.before.as_deref())
                .await;
            if now.digest() == Some(before) {
                return why;
            }
            tokio::time::sleep(POLL).await;
        }
        format!("{why}; and the last good configuration did not come back in time")
    }
}

/// Whether every new connection meets the new configuration: nginx's new and old workers accept side by side for about
/// 100 ms. HAProxy's are looked after by their listeners.
fn accepts_alone(work: &Work<'_>) -> bool {
    match &work.running {
        Running::Nginx { workers, .. } => !workers.iter().any(|pid| process::accepts(*pid)),
        Running::Haproxy { .. } => true,
    }
}

fn signal_reload(master: &Master) -> bool {
    let signal = match master.kind {
        ProxyKind::Haproxy => Signal::USR2,
        ProxyKind::Nginx => Signal::HUP,
    };
    master.alive() && process::signal(master.pid, signal)
}
