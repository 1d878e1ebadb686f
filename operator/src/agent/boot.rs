//! What the proxy boots into follows a withdrawal a little later.
//!
//! An engine that stops tells every container to, and the operator withdraws all of them one by one. Were that
//! written down at once, the proxy would come back with the engine and serve nothing until the operator is up. So a
//! bundle that only withdraws runs at once and is written down when the proxy is seen to run on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use interlock_core::bundle::{Bundle, Receipt};
use interlock_core::protocol::Applied;

use super::apply::{Stop, Work, millis};
use super::commands::Commands;
use super::keeper::Keeper;
use super::process::Master;
use super::{Step, main_file};

/// Between two tries to write it down.
const RETRY: Duration = Duration::from_secs(1);

/// What runs and what the proxy does not boot into yet.
#[derive(Debug)]
pub(super) struct PutOff {
    pub(super) bundle: Arc<Bundle>,
    /// The process that runs it.
    master: Option<(u32, u64)>,
    due: Instant,
}

fn identity(master: Option<&Master>) -> Option<(u32, u64)> {
    master.map(|master| (master.pid, master.started))
}

impl PutOff {
    /// Whether this process runs it; one that was started since has booted into what was before.
    pub(super) fn runs_in(&self, master: Option<&Master>) -> bool {
        self.master.is_some() && self.master == identity(master)
    }
}

impl Keeper {
    /// Whether something is still to be written down.
    pub(super) fn has_put_off(&self) -> bool {
        self.put_off.is_some()
    }

    /// Notes that a bundle runs that is to be written down later; more of them do not put it off any further.
    pub(super) fn put_off(&mut self, work: &Work<'_>) {
        let due = match &self.put_off {
            Some(before) => before.due,
            None => Instant::now() + self.options.timing.put_off,
        };
        let bundle = Arc::new(work.bundle().clone());
        self.put_off = Some(PutOff { bundle, master: identity(work.master.as_ref()), due });
    }

    /// Brings a proxy to a bundle that only withdraws, if that takes no reload. One that was told to stop is left
    /// alone: a reload would be its next life.
    pub(super) async fn withdraw(&mut self, work: &Work<'_>, sure: bool) -> Result<Option<Applied>, Stop> {
        if !work.running.takes_requests() {
            return Err(Stop::told_to_stop());
        }
        if work.running.digest() != Some(&work.bundle().static_digest) {
            return Ok(None);
        }
        let activating = Instant::now();
        let mut done = Commands::default();
        let live = match self.settle(work, work.again() || !sure, &mut done).await {
            Ok(live) => live,
            Err(why) => {
                if !self.takes_requests(work).await {
                    return Err(Stop::told_to_stop());
                }
                tracing::warn!(%why, "a withdrawal did not hold");
                return Ok(None);
            }
        };
        self.options.fault.pass(Step::Activated);
        self.put_off(work);
        let mut healed = BTreeMap::new();
        work.count_healed(&done, &mut healed);
        Ok(Some(Applied {
            receipt: Receipt::of(work.bundle(), live),
            reload: Vec::new(),
            commands: u32::try_from(done.lines.len()).unwrap_or(u32::MAX),
            healed,
            check_ms: 0,
            activate_ms: millis(activating),
        }))
    }

    /// Whether the proxy still does, now.
    pub(super) async fn takes_requests(&self, work: &Work<'_>) -> bool {
        let Some(master) = &work.master else { return false };
        let (running, _) = self.at_once(master, &work.layout, work.before.as_deref(), None).await;
        running.takes_requests()
    }

    /// Writes down what was put off, if it is time and the proxy takes requests: one that was told to stop does not.
    pub(super) async fn write_down_when_due(&mut self) {
        let Some(put_off) = self.put_off.as_mut().filter(|put_off| put_off.due <= Instant::now()) else {
            return;
        };
        put_off.due = Instant::now() + RETRY;
        let bundle = Arc::clone(&put_off.bundle);
        match self.runs_on(&bundle).await {
            Ok(true) => self.write_down().await,
            Ok(false) => {}
            Err(why) => tracing::warn!(%why, "a withdrawal cannot be written down yet"),
        }
    }

    async fn runs_on(&mut self, bundle: &Bundle) -> Result<bool, String> {
        let stopping = self.supervisor.as_ref().is_some_and(|supervisor| supervisor.is_stopping());
        let master = self.master().await?;
        if self.put_off.take_if(|put_off| !put_off.runs_in(master.as_ref())).is_some() || stopping {
            return Ok(false);
        }
        let Some(master) = master else { return Ok(false) };
        let layout = self.layout(Some(&master)).await?;
        let (running, _) = self.at_once(&master, &layout, Some(bundle), None).await;
        Ok(running.digest() == Some(&bundle.static_digest))
    }

    /// Writes down what was put off, whatever the proxy does.
    pub(super) async fn write_down(&mut self) {
        let Some(bundle) = self.put_off.as_ref().map(|put_off| Arc::clone(&put_off.bundle)) else { return };
        match self.boot_into(&bundle).await {
            Ok(()) => self.put_off = None,
            Err(why) => tracing::warn!(%why, "a withdrawal cannot be written down"),
        }
    }

    async fn boot_into(&mut self, bundle: &Bundle) -> Result<(), String> {
        let master = self.master().await?;
        let layout = self.layout(master.as_ref()).await?;
        let generation = layout.generation(bundle, "gen");
        layout.stage(bundle, &generation, false, None)?;
        let main = generation.files.get(main_file(bundle.proxy)).map_or("", String::as_str);
        let replaced = layout.switch(main.as_bytes())?;
        layout.record(bundle, &generation).map_err(|err| err.to_string())?;
        layout.collect(bundle);
        self.durable.want(layout.boots_from(&generation), replaced);
        Ok(())
    }
}
