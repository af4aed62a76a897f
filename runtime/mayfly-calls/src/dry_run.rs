//! `x-mayfly-dry-run: 1`: the handler runs up to its first work on a model; that is priced, checked against the limits,
//! and told instead of done. There is no row.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::BodyExt as _;
use mayfly_api::{DryRun, DryRunLine};
use mayfly_host::{HostError, Running, Timings};
use mayfly_types::{ModelId, Money};

use crate::bill::Bill;
use crate::body::full;
use crate::budget::Quote;
use crate::deliver::{Head, refuse};
use crate::open::OpenCall;

/// Answers with the price of the first hold, once the handler has asked for one or ended without.
pub(crate) async fn answer(
    call: &OpenCall,
    ran: Result<Running, (HostError, Timings)>,
    names: &BTreeMap<ModelId, String>,
    head: Head,
) {
    let (result, timings) = match ran {
        Err((error, timings)) => (Err(error), timings),
        Ok(Running { response, end, .. }) => {
            // A handler may answer first and work later: see it to its end. The hold it asks for ends it.
            let mut body = response.into_body();
            let read = async { while let Some(Ok(_)) = body.frame().await {} };
            tokio::select! {
                biased;
                () = read => {}
                () = call.cancel.cancelled() => {}
            }
            drop(body);
            end.await.map_or((Ok(()), Timings::default()), |end| (end.result, end.timings))
        }
    };
    let quote = match (call.budget.quote(), result) {
        (Some(quote), _) => quote,
        (None, Ok(())) => Quote::default(),
        (None, Err(error)) => return refuse(call, error.into(), &timings, head).await,
    };
    let json =
        serde_json::to_vec(&told(quote, names, call.currency_text())).expect("strings and integers are always JSON");
    let mut response = Response::new(full(Bytes::from(json)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    call.mark(response.headers_mut(), &timings);
    Bill::default().mark(response.headers_mut(), &call.currency);
    let _ = head.send(response);
}

fn told(quote: Quote, names: &BTreeMap<ModelId, String>, currency: &str) -> DryRun {
    let cost = Bill(quote.lines.clone()).cost();
    let lines = quote.lines.into_iter().map(|line| DryRunLine {
        meter: line.meter,
        model: line.model.map(|id| names.get(&id).cloned().unwrap_or_else(|| id.to_string())),
        quantity: line.quantity,
        cost: line.amount.map(|amount| Money::from_pico(amount.into())),
    });
    DryRun {
        dry_run: true,
        lines: lines.collect(),
        cost,
        currency: currency.to_owned(),
        admitted: quote.refusal.is_none(),
        refusal: quote.refusal,
    }
}
