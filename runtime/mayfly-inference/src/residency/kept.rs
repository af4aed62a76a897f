//! Models that are kept loaded though nobody calls: who asks for them, how much they may take, and how they come back.
//!
//! What is kept is pinned in the decisions of its device, whichever session it is at the moment, and is loaded as soon as
//! there is room: behind those that callers wait for, with what is idle going for it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mayfly_scheduler::residency::{Need, SessionId};

use super::need::predict;
use super::slots::{Held, Key, Kind, Slot, Slots};
use super::{Residents, Wanted, refused};
use crate::generation::Engine;
use crate::session::{self, Executor, Model};
use crate::{DecoderInfo, Device, KeepError, LoadError, Package};

/// Who asks for models to be kept, a deployment or a pin; the caller's own number.
type Keeper = u128;

/// The most who may ask.
const KEEPERS_MAX: usize = 1024;
/// A load that failed is tried again after this, and each further time after twice as long.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// What a model is used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Uses {
    /// Runs of its graph, as `wasi:nn` asks for them.
    pub runs: bool,
    /// Generation, if it is a decoder.
    pub generates: bool,
}

impl Uses {
    /// Everything that a model can be used for.
    pub const ALL: Self = Self { runs: true, generates: true };

    /// What a model is used for as a rule, where no handler says it: a decoder generates, all else runs.
    pub fn usual(package: &Package) -> Self {
        let generates = package.info().decoder.is_some();
        Self { runs: !generates, generates }
    }
}

/// A model that is to be kept loaded, and what for.
#[derive(Debug, Clone)]
pub struct Keep {
    pub(crate) model: Model,
    pub(crate) runs: bool,
    /// With it, its engine.
    pub(crate) decoder: Option<DecoderInfo>,
}

impl Keep {
    /// `package` on `device`, with what `uses` needs of it.
    pub fn new(package: &Package, device: Device, uses: Uses) -> Self {
        let decoder = package.info().decoder.clone().filter(|_| uses.generates);
        Self { model: package.model(device), runs: uses.runs, decoder }
    }

    fn key(&self) -> Key {
        (self.model.digest, self.model.device)
    }

    fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.runs.then_some(Kind::Runs).into_iter().chain(self.decoder.is_some().then_some(Kind::Generates))
    }
}

/// One session that is kept: two who ask for the same have one.
type Session = (Key, Kind);

/// All that is kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    keepers: BTreeMap<Keeper, Vec<Keep>>,
    /// Room that is set aside for a keeper that is about to ask.
    reserved: BTreeMap<u64, (Keeper, Vec<Keep>)>,
    /// Of all keepers; looked at each time that sessions come or go.
    sessions: HashSet<Session>,
    /// Loads that failed: how often, and when to try again.
    failed: HashMap<Session, (u32, Instant)>,
}

impl Kept {
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Whether sessions of this kind are kept. What takes the place of one counts as what it will be.
    pub(super) fn has(&self, key: Key, kind: Kind) -> bool {
        let kind = match kind {
            Kind::Runs | Kind::Replaces(_) => Kind::Runs,
            Kind::Generates => Kind::Generates,
            Kind::Beside(_) => return false,
        };
        self.sessions.contains(&(key, kind))
    }

    pub(super) fn load_failed(&mut self, key: Key, kind: Kind) {
        if self.has(key, kind) {
            let (times, at) = self.failed.entry((key, kind)).or_insert((0, Instant::now()));
            let wait = RETRY_MIN.saturating_mul(1 << (*times).min(16)).min(RETRY_MAX);
            (*times, *at) = (times.saturating_add(1), Instant::now() + wait);
        }
    }

    pub(super) fn load_went_well(&mut self, key: Key, kind: Kind) {
        self.failed.remove(&(key, kind));
    }

    fn changed(&mut self) {
        let all = self.keepers.values().flatten();
        self.sessions = all.flat_map(|keep| keep.kinds().map(|kind| (keep.key(), kind))).collect();
        let sessions = &self.sessions;
        self.failed.retain(|session, _| sessions.contains(session));
    }

    /// What others than `keeper` have or have set aside.
    fn of_others(&self, keeper: Keeper) -> Vec<Keep> {
        let kept = self.keepers.iter().filter(|(other, _)| **other != keeper).flat_map(|(_, models)| models);
        let reserved = self.reserved.values().filter(|(other, _)| *other != keeper).flat_map(|(_, models)| models);
        kept.chain(reserved).cloned().collect()
    }

    /// What should be loaded or on its way by now.
    fn due(&self) -> Vec<Keep> {
        let now = Instant::now();
        let waits = |session: &Session| self.failed.get(session).is_some_and(|(_, at)| *at > now);
        let mut seen = HashSet::new();
        let mut due = Vec::new();
        for keep in self.keepers.values().flatten() {
            let mut new = |kind| !waits(&(keep.key(), kind)) && seen.insert((keep.key(), kind));
            let runs = keep.runs && new(Kind::Runs);
            let decoder = keep.decoder.clone().filter(|_| new(Kind::Generates));
            if runs || decoder.is_some() {
                due.push(Keep { model: keep.model.clone(), runs, decoder });
            }
        }
        due
    }
}

/// Room for models to be kept, while their keeper makes up its mind. Dropped, it is free again.
#[derive(Debug)]
pub struct Reservation {
    residents: Weak<Residents>,
    number: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(residents) = self.residents.upgrade() {
            residents.lock().kept.reserved.remove(&self.number);
        }
    }
}

impl Residents {
    /// Sets room aside for `keeper` to keep `models` instead of what it keeps now.
    ///
    /// # Errors
    /// [`KeepError`], and nothing is set aside.
    pub(crate) fn reserve(self: &Arc<Self>, keeper: Keeper, models: Vec<Keep>) -> Result<Reservation, KeepError> {
        let mut slots = self.lock();
        self.check_kept(&mut slots, keeper, &models)?;
        let number = slots.number();
        slots.kept.reserved.insert(number, (keeper, models));
        Ok(Reservation { residents: Arc::downgrade(self), number })
    }

    /// Keeps `models` for `keeper` instead of what it kept before; nothing, without any. They are loaded in the background.
    ///
    /// # Errors
    /// [`KeepError`], and nothing is kept for it any more.
    pub(crate) fn keep(self: &Arc<Self>, keeper: Keeper, models: Vec<Keep>) -> Result<(), KeepError> {
        let mut slots = self.lock();
        let asked = if models.is_empty() { Ok(()) } else { self.check_kept(&mut slots, keeper, &models) };
        slots.kept.keepers.remove(&keeper);
        if asked.is_ok() && !models.is_empty() {
            slots.kept.keepers.insert(keeper, models);
        }
        slots.kept.changed();
        drop(slots);
        self.load_kept();
        asked
    }

    /// Whether `keeper` may have `models`: within the bytes and the sessions that may be kept, each on its own within the
    /// budget of its device.
    fn check_kept(&self, slots: &mut Slots, keeper: Keeper, models: &[Keep]) -> Result<(), KeepError> {
        if self.pinned_max == 0 {
            return Err(KeepError::Never);
        }
        if slots.kept.keepers.keys().filter(|other| **other != keeper).count() >= KEEPERS_MAX {
            return Err(KeepError::TooMany { limit: KEEPERS_MAX });
        }
        let others = slots.kept.of_others(keeper);
        for device in slots.devices.keys().copied().collect::<Vec<_>>() {
            let on_device = |keep: &&Keep| keep.model.device == device;
            let mut seen = HashSet::new();
            let (mut kept, mut sessions) = (0_u64, 0_usize);
            for keep in others.iter().filter(on_device) {
                for kind in keep.kinds().filter(|kind| seen.insert((keep.key(), *kind))) {
                    kept = kept.saturating_add(self.need_kept(keep, kind).own);
                    sessions += 1;
                }
            }
            let mut needs = 0_u64;
            for keep in models.iter().filter(on_device) {
                session::check_device(&self.options.library, device)?;
                for kind in keep.kinds().filter(|kind| seen.insert((keep.key(), *kind))) {
                    if let (Kind::Generates, Some(decoder)) = (kind, &keep.decoder) {
                        crate::generation::check_device(device, decoder)?;
                    }
                    let need = self.need_kept(keep, kind);
                    slots.device(device).fit(need).map_err(|why| refused(device, why))?;
                    needs = needs.saturating_add(need.own);
                    sessions += 1;
                }
            }
            if kept.saturating_add(needs) > self.pinned_max && needs > 0 {
                return Err(KeepError::NoRoom { needs, kept, limit: self.pinned_max });
            }
            // Who is not kept needs sessions, too.
            let limit = self.sessions_max as usize / 2;
            if sessions > limit && needs > 0 {
                return Err(KeepError::Sessions { limit, sessions_max: self.sessions_max });
            }
        }
        Ok(())
    }

    fn need_kept(&self, keep: &Keep, kind: Kind) -> Need {
        let wanted = match (&keep.decoder, kind) {
            (Some(decoder), Kind::Generates) => self.wanted_to_generate(&keep.model, decoder),
            // What it goes over to, not what it wakes on.
            _ => {
                let (file, weights) = self.file(&keep.model);
                Wanted { file, weights, kv_bytes: 0 }
            }
        };
        // Not corrected by measures: what was promised once is within the limit after a restart as well.
        let need = predict(wanted.weights, keep.model.device, wanted.file);
        Need { own: need.own.saturating_add(wanted.kv_bytes), ..need }
    }

    /// Asks for the load of what is to be kept and is neither loaded nor on its way.
    pub(crate) fn load_kept(self: &Arc<Self>) {
        let mut slots = self.lock();
        for keep in slots.kept.due() {
            let key = keep.key();
            if keep.runs && !slots.executors.contains_key(&key) {
                let (wanted, start) = self.to_run(keep.model.clone());
                self.want::<Executor>(&mut slots, key, &wanted, start);
            }
            if let Some(decoder) = keep.decoder.filter(|_| !slots.engines.contains_key(&key)) {
                let (wanted, start) = self.to_generate(keep.model, &decoder);
                self.want::<Engine>(&mut slots, key, &wanted, start);
            }
        }
        let mut blocked = false;
        for device in slots.devices.keys().copied().collect::<Vec<_>>() {
            self.settle(&mut slots, device);
            blocked |= slots.device(device).is_blocked();
        }
        drop(slots);
        if blocked {
            self.woken.wake();
        }
    }

    fn want<T: Held>(
        self: &Arc<Self>,
        slots: &mut Slots,
        key: Key,
        wanted: &Wanted,
        start: impl FnOnce(super::Ready<T>, super::Gone<T>) -> super::Start,
    ) {
        let id = SessionId(slots.number());
        let need = self.need(slots, key, wanted);
        if let Err(why) = slots.device(key.1).want(id, need, true) {
            let error: LoadError = refused(key.1, why);
            tracing::warn!(model = %key.0, device = %key.1, %error, "a model that is to be kept loaded cannot be");
            slots.kept.load_failed(key, T::KIND);
            return;
        }
        self.add(slots, id, key, wanted, need, start);
    }

    pub(crate) fn keeps_any(&self) -> bool {
        !self.lock().kept.is_empty()
    }

    /// Whether the package is kept loaded on this device, for runs or for generation.
    pub(crate) fn is_kept(&self, key: Key) -> bool {
        let slots = self.lock();
        slots.kept.has(key, Kind::Runs) || slots.kept.has(key, Kind::Generates)
    }
}

impl Slots {
    /// Tells the decisions of `device` which of its sessions are kept.
    pub(super) fn pin(&mut self, device: Device) {
        let of_device = self.places.iter().filter(|(_, place)| place.key.1 == device);
        let pins: Vec<_> = of_device.map(|(id, place)| (*id, self.kept.has(place.key, place.kind))).collect();
        let decisions = self.device(device);
        for (id, pinned) in pins {
            decisions.pin(id, pinned);
        }
    }

    /// What an unbegun or a failed load of a kept model leaves: a time to try again.
    pub(super) fn note_load(&mut self, key: Key, kind: Kind, went_well: bool) {
        match went_well {
            true => self.kept.load_went_well(key, kind),
            false => self.kept.load_failed(key, kind),
        }
    }
}

impl<T> Slot<T> {
    /// A load that nobody waits for yet.
    pub(super) fn coming(id: SessionId) -> Self {
        Self::Coming { id, waiters: Vec::new() }
    }
}
