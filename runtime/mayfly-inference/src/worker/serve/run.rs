//! A run in a worker.

use std::time::{Duration, Instant};

use mayfly_types::Digest;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::session::Request;
use crate::worker::faults;
use crate::worker::message::{Fault, FromWorker, Order, encode};
use crate::{Caller, Device, Output, RunError, RunStats};

/// How often it is looked whether a run that was asked to stop has ended.
const STOP_LOOK: Duration = Duration::from_millis(10);

impl Worker {
    pub(super) async fn run(
        &self,
        order: &Order,
        mut request: Request,
        cancel: &CancellationToken,
    ) -> Result<(Vec<Output>, RunStats), Fault> {
        let package = self.package(order.package)?;
        request.joint = package.joint(&request.inputs);
        let device = self.begin.device;
        let deadline = Instant::now() + Duration::from_millis(order.timeout_ms);
        let (out, run) = (self.out.clone(), order.run);
        let started = move || {
            if let Ok(packet) = encode(&FromWorker::Started { run }, &[]) {
                let _ = out.send(packet);
            }
        };
        let caller = Caller { owner: 0, deadline, cancel };
        let ran = self.inference.run_model(package.model(device), request, caller, Box::new(started)).await;
        match ran {
            Ok(done) => Ok(done),
            Err(RunError::Stopped { started: true }) => {
                self.until_ended(order.package, device).await;
                Err(Fault::Stopped)
            }
            Err(error) => Err(faults::of_run(error)),
        }
    }

    /// Waits until ONNX Runtime has come back from the run that was stopped: until then it is not over, and the server
    /// counts on hearing only that.
    async fn until_ended(&self, package: Digest, device: Device) {
        let runs = || {
            let models = self.inference.residency().models;
            let model = models.into_iter().find(|model| (model.digest, model.device) == (package, device));
            model.filter(|model| model.idle.is_none()).map(|model| model.runs)
        };
        let at_first = runs();
        while at_first.is_some() && runs() == at_first {
            sleep(STOP_LOOK).await;
        }
    }
}
