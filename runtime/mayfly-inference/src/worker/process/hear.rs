//! What a process says, and what of it is accepted.

use std::time::Instant;

use super::space::does_not_fit;
use super::{Process, State};
use crate::worker::faults::run_error;
use crate::worker::flight::{Announced, Flight, Violation, outputs};
use crate::worker::message::{Fault, FromWorker, PacketError, ToWorker, Value, decode};

impl Process {
    pub(super) fn hear(&self, packet: &[u8]) -> Result<(), String> {
        let (message, data) = decode::<FromWorker>(packet).map_err(|error: PacketError| error.to_string())?;
        self.heard(message, data).map_err(|violation| violation.to_string())
    }

    fn heard(&self, message: FromWorker, data: &[u8]) -> Result<(), Violation> {
        match message {
            FromWorker::Ready | FromWorker::Unusable(_) => Err(Violation("it was ready before")),
            FromWorker::Taken { run } => {
                let mut state = self.lock();
                let place = match state.flights.contains_key(&run) {
                    true => state.flight(run)?.inputs.take(),
                    false => state.course(run)?.inputs.take(),
                };
                let place = place.ok_or(Violation("inputs that were not there"))?;
                self.free(&mut state, &place);
                Ok(())
            }
            FromWorker::Started { run } => {
                let mut state = self.lock();
                if state.flight(run)?.begun.is_some() {
                    return Err(Violation("a run that begins twice"));
                }
                state.begin(run)?;
                Ok(())
            }
            FromWorker::Failed { run, fault } => {
                let mut state = self.lock();
                if !state.flights.contains_key(&run) {
                    return self.course_failed(&mut state, run, fault);
                }
                if fault == Fault::Stopped && !state.flight(run)?.may_stop(Instant::now()) {
                    return Err(Violation("a run that nobody stopped"));
                }
                drop(state);
                let mut flight = self.land(run)?;
                let begun = flight.begun.is_some();
                // Should this fail, its caller hears that the process is gone.
                match run_error(fault, begun, self.device.as_str(), flight.output_bytes_max) {
                    Ok(error) => flight.answer(Err(error)),
                    Err(violation) => {
                        self.lock().flights.insert(run, flight);
                        return Err(violation);
                    }
                }
                Ok(())
            }
            FromWorker::Outputs { run, load_us, outputs, inline: true } => self.inline(run, load_us, &outputs, data),
            FromWorker::Outputs { run, load_us, outputs, inline: false } => self.announced(run, load_us, outputs),
            FromWorker::Written { run } => self.written(run),
            FromWorker::Admitted { run } => self.admitted(run),
            FromWorker::Prefill { run, cached } => self.prefill(run, cached),
            FromWorker::Piece { run, piece } => self.piece(run, &piece, data),
            FromWorker::Report(report) => self.lock().reports.told(report),
        }
    }

    /// Outputs that came with the word of them.
    fn inline(&self, run: u64, load_us: Option<u64>, values: &[Value], data: &[u8]) -> Result<(), Violation> {
        let mut state = self.lock();
        let flight = state.begin(run)?;
        if flight.outputs.is_some() {
            return Err(Violation("outputs twice"));
        }
        let made = match flight.check(values)? {
            Err(error) => Err(error),
            Ok(bytes) if bytes != data.len() as u64 => return Err(Violation("outputs of another size")),
            Ok(_) => {
                let mut data = data;
                outputs(&flight.wanted, values, |bytes| {
                    let (front, rest) = data.split_at_checked(bytes.len()).ok_or(Violation("too little data"))?;
                    bytes.copy_from_slice(front);
                    data = rest;
                    Ok(())
                })?
            }
        };
        drop(state);
        let mut flight = self.land(run)?;
        let stats = flight.stats(load_us);
        flight.answer(made.map(|made| (made, stats)).map_err(Into::into));
        Ok(())
    }

    /// Outputs that need space in the arena.
    fn announced(&self, run: u64, load_us: Option<u64>, values: Vec<Value>) -> Result<(), Violation> {
        let mut state = self.lock();
        state.begin(run)?;
        let State { flights, places, waiting, .. } = &mut *state;
        let flight = flights.get_mut(&run).ok_or(Violation("a run that is not there"))?;
        if flight.outputs.is_some() {
            return Err(Violation("outputs twice"));
        }
        let checked = flight.check(&values)?;
        let checked = checked.and_then(|bytes| match places.could_fit(bytes) {
            true => Ok(bytes),
            false => Err(does_not_fit(bytes, "outputs")),
        });
        match checked {
            Ok(bytes) => {
                flight.outputs = Some(Announced { values, load_us, bytes, place: None });
                waiting.push_back(run);
                self.give_space(&mut state);
            }
            Err(error) => {
                // It is over when the worker has let go of it.
                flight.answer(Err(error.into()));
                self.tell(&ToWorker::Stop { run });
            }
        }
        Ok(())
    }

    /// Outputs that are in the arena now.
    fn written(&self, run: u64) -> Result<(), Violation> {
        let mut state = self.lock();
        let flight = state.flight(run)?;
        let Some(Announced { values, load_us, place: Some(place), .. }) = &flight.outputs else {
            return Err(Violation("outputs without space"));
        };
        let (values, load_us, mut at) = (values.clone(), *load_us, place.at);
        let wanted = flight.wanted.clone();
        // Their caller may leave meanwhile; their place stays theirs.
        drop(state);
        let made = outputs(&wanted, &values, |bytes| {
            self.arena.read(at, bytes).map_err(|_| Violation("its memory could not be read"))?;
            at = at.saturating_add(bytes.len() as u64);
            Ok(())
        })?;
        let mut flight = self.land(run)?;
        let stats = flight.stats(load_us);
        flight.answer(made.map(|made| (made, stats)).map_err(Into::into));
        Ok(())
    }

    /// Takes out a run that is over.
    fn land(&self, run: u64) -> Result<Flight, Violation> {
        let mut state = self.lock();
        let mut flight = state.flights.remove(&run).ok_or(Violation("a run that is not there"))?;
        state.waiting.retain(|&other| other != run);
        let places = [flight.inputs.take(), flight.outputs.take().and_then(|outputs| outputs.place)];
        for place in places.into_iter().flatten() {
            self.free(&mut state, &place);
        }
        let now = Instant::now();
        if let Some(begun) = flight.begun {
            flight.share = state.shares.end(now, begun);
        }
        state.used = now;
        Ok(flight)
    }
}
