//! What must be absent: each heavy dependency has one home, and the pure crates stay pure.

use std::collections::BTreeSet;

use crate::harness::root;

/// The crates below `runtime/` and `sdk/` whose manifest depends on `dependency`.
fn dependents(dependency: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for folder in ["runtime", "sdk"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let entry = entry.unwrap();
            let Ok(text) = std::fs::read_to_string(entry.path().join("Cargo.toml")) else { continue };
            let manifest: toml::Table = text.parse().unwrap();
            let named = |section: &str| {
                manifest.get(section).and_then(|table| table.as_table()).is_some_and(|table| {
                    table.keys().any(|key| key == dependency || key.starts_with(&format!("{dependency}-")))
                })
            };
            if named("dependencies") {
                found.insert(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    found
}

fn only(crates: &[&str]) -> BTreeSet<String> {
    crates.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn each_heavy_dependency_has_one_home() {
    assert_eq!(dependents("axum"), only(&["mayfly-gateway"]));
    assert_eq!(dependents("wasmtime"), only(&["mayfly-host"]));
    assert_eq!(dependents("ort"), only(&["mayfly-inference"]));
    assert_eq!(dependents("tokenizers"), only(&["mayfly-inference"]));
    assert_eq!(dependents("rusqlite"), only(&["mayfly-store"]));
    assert_eq!(dependents("object_store"), only(&["mayfly-store"]));
    assert_eq!(dependents("opentelemetry"), only(&["mayfly-telemetry"]));
}

#[test]
fn the_pure_crates_do_no_io() {
    for dependency in ["tokio", "reqwest", "rusqlite", "rand", "rustix", "libc", "hyper"] {
        let found = dependents(dependency);
        for pure in ["mayfly-types", "mayfly-ledger", "mayfly-scheduler"] {
            assert!(!found.contains(pure), "{pure} depends on {dependency}");
        }
    }
}

#[test]
fn the_charge_table_is_the_codes() {
    let page = std::fs::read_to_string(root().join("runtime/ARCHITECTURE.md")).unwrap();
    let table = mayfly_ledger::charge_table();
    assert!(page.contains(&table), "runtime/ARCHITECTURE.md should have:\n{table}");
}
