//! `mayfly invoke`: one call, with the answer on standard output.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, bail};
use mayfly_client::Invocation;
use serde_json::json;

use super::Session;
use super::args::Invoke;
use super::progress::Shown;

pub(super) async fn run(session: &Session, args: Invoke) -> anyhow::Result<()> {
    let body = args.data.as_deref().map(read_body).transpose()?;
    let method = args.method.clone().unwrap_or_else(|| if body.is_some() { "POST" } else { "GET" }.to_owned());
    let mut headers = Vec::new();
    for header in &args.headers {
        let (name, value) = header.split_once(':').with_context(|| format!("`{header}` is not `name: value`"))?;
        headers.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    if body.is_some() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        headers.push(("content-type".to_owned(), "application/json".to_owned()));
    }
    let deployment = session.client.deployment(session.project(), args.name.as_str()).await?;
    let call = Invocation { method, path: args.path.clone(), headers, body: body.unwrap_or_default().into() };
    let cold = deployment.status.iter().flat_map(|status| &status.models).any(|model| !model.loaded);
    let what = if cold { "waiting for the answer; the model is loaded first" } else { "waiting for the answer" };
    let shown = Shown::waiting(what, session.global.json);
    let answer = session.client.invoke(&deployment.url, call).await;
    drop(shown);
    let answer = answer?;
    let status = answer.status().as_u16();
    let headers: Vec<_> = answer
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let body = answer.bytes().await.context("the answer broke off")?;

    let mut out = std::io::stdout().lock();
    if session.global.json {
        let headers: Vec<_> = headers.iter().map(|(name, value)| json!([name, value])).collect();
        let body = String::from_utf8_lossy(&body);
        let body = serde_json::from_str(&body).unwrap_or_else(|_| json!(body));
        writeln!(out, "{}", json!({ "status": status, "headers": headers, "body": body }))?;
    } else {
        if args.include {
            writeln!(out, "{status}")?;
            for (name, value) in &headers {
                writeln!(out, "{name}: {value}")?;
            }
            writeln!(out)?;
        }
        out.write_all(&body)?;
        if !body.ends_with(b"\n") {
            writeln!(out)?;
        }
    }
    if status >= 400 {
        bail!("the deployment answered {status}");
    }
    Ok(())
}

fn read_body(data: &str) -> anyhow::Result<Vec<u8>> {
    match data.strip_prefix('@') {
        Some("-") => {
            let mut body = Vec::new();
            std::io::stdin().lock().read_to_end(&mut body)?;
            Ok(body)
        }
        Some(file) => std::fs::read(file).with_context(|| format!("reading {file}")),
        None => Ok(data.as_bytes().to_vec()),
    }
}
