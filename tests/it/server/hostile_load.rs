//! The short form of `scripts/hostile-load`.

#[path = "../../../examples/hostile_load/load/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the example's own, of which this needs a part")]
mod load;

use std::path::Path;

use self::load::{Bounds, Settings};

/// A1, A4, A5, A7: slow bodies, a hung upstream, unread responses and wrong sign-ins each took all places of a
/// limit that honest clients share.
#[tokio::test]
async fn honest_clients_are_served_beside_hostile_ones() {
    let program = Path::new(env!("CARGO_BIN_EXE_sekisho"));
    let report = load::run(Settings::short(), program).await.unwrap();
    println!("{report}");
    let failures = report.failures(&Bounds::short());
    assert!(failures.is_empty(), "{}\n{report}", failures.join("\n"));
}
