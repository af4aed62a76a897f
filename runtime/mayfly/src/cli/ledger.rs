//! `mayfly ledger verify`: over a server, or on the folder of one that is down.

use std::path::Path;

use anyhow::{Context as _, ensure};
use mayfly_api::Verification;
use mayfly_store::Store;

use super::args::Global;
use super::{Session, output};

pub(super) async fn verify(session: &Session) -> anyhow::Result<()> {
    let found = session.client.verify_ledger().await?;
    tell(session.global.json, &found)
}

pub(super) fn verify_folder(global: &Global, folder: &Path) -> anyhow::Result<()> {
    // Opening would make a store where there is none.
    ensure!(folder.join("mayfly.db").is_file(), "{} is not a server's data folder (no mayfly.db)", folder.display());
    let store =
        Store::open(folder).context("opening the data folder (a running server is verified without --data-dir)")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let found = runtime.block_on(async {
        let found = store.journal().verify().await;
        store.close().await;
        found
    })?;
    let found = Verification {
        ok: found.problems.is_empty(),
        rows: found.rows,
        boots: found.boots,
        calls: found.calls,
        open: found.open,
        problems: found.problems.iter().map(|problem| mayfly_api::clean_line(problem)).collect(),
    };
    tell(global.json, &found)
}

/// Prints what was found; an error, and so exit code 1, if anything is wrong.
fn tell(json: bool, found: &Verification) -> anyhow::Result<()> {
    output::print(json, found, describe)?;
    ensure!(found.ok, "the ledger is damaged: {} problems (at most 100 are told)", found.problems.len());
    Ok(())
}

fn describe(found: &Verification) -> String {
    let mut text = format!("rows      {}\nboots     {}\n", found.rows, found.boots);
    text.push_str(&format!(
        "calls     {}\nopen      {}\nproblems  {}\n",
        found.calls,
        found.open,
        found.problems.len()
    ));
    for problem in &found.problems {
        text.push_str(&format!("  {problem}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_told_and_fail() {
        let good = Verification { ok: true, rows: 9, boots: 2, calls: 3, open: 1, problems: Vec::new() };
        assert_eq!(describe(&good), "rows      9\nboots     2\ncalls     3\nopen      1\nproblems  0\n");
        assert!(tell(true, &good).is_ok());
        let bad = Verification { ok: false, problems: vec!["row 4: its hash differs".to_owned()], ..good };
        assert!(describe(&bad).contains("  row 4: its hash differs\n"));
        assert!(tell(true, &bad).is_err());
    }

    #[test]
    fn a_folder_without_a_store_stays_empty() {
        let folder = tempfile::tempdir().expect("a folder");
        let global = <crate::cli::Cli as clap::Parser>::parse_from(["mayfly", "list"]).global;
        let error = verify_folder(&global, folder.path()).expect_err("there is no store");
        assert!(error.to_string().contains("mayfly.db"));
        assert_eq!(std::fs::read_dir(folder.path()).expect("it is there").count(), 0);
    }
}
