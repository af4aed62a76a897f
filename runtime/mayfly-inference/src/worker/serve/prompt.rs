//! The tokens of a prompt, made in a worker: a chat template is a program, and fuel bounds its steps but not the memory of
//! one.

use std::sync::Arc;

use super::Worker;
use super::data::input;
use crate::session::Request;
use crate::worker::faults;
use crate::worker::message::{Fault, FromWorker, Order, PROMPT, TOKENS, short};
use crate::{ElementType, Output, Prompt, RunStats, Seen, Tensor};

impl Worker {
    /// Renders and encodes. It cannot be stopped half way: its end is waited for, or that of the process.
    pub(super) async fn prompt(
        &self,
        order: &Order,
        request: &Request,
        chat: bool,
    ) -> Result<(Vec<Output>, RunStats), Fault> {
        let failed = |error: &dyn std::fmt::Display| Fault::Failed(short(&error.to_string()));
        let text = input(request, PROMPT)?;
        let prompt = match chat {
            true => Prompt::Chat(serde_json::from_slice(text).map_err(|error| failed(&error))?),
            false => Prompt::Text(String::from_utf8(text.to_vec()).map_err(|error| failed(&error))?),
        };
        let package = self.package(order.package)?;
        self.say(&FromWorker::Started { run: order.run }, &[]);
        let made = tokio::task::spawn_blocking(move || Arc::clone(&package).prompt(&prompt)).await;
        let tokens = made.map_err(|error| failed(&error))?.map_err(faults::of_prompt)?;
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let length = u32::try_from(tokens.len()).map_err(|error| failed(&error))?;
        let tensor = Tensor::from_bytes(ElementType::I32, &[length], &bytes).map_err(|error| failed(&error))?;
        let output = Output { name: TOKENS.to_owned(), tensor, on_read: Vec::new(), seen: Seen::default() };
        Ok((vec![output], RunStats::default()))
    }
}
