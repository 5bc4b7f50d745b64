//! Something between the ends: a router, and a router that translates addresses.

use syncline::bed::BedSpec;

use crate::stage::{End, PATIENCE, Stage, stage};

fn bed() -> BedSpec {
    BedSpec { via: true, ..BedSpec::default() }
}

/// Loads from end a to a server on end b; returns both reports.
fn across(stage: &Stage) -> [crate::stage::Finished; 2] {
    let words = "--addr 10.77.2.1/24 --gateway 10.77.2.254 --port 80 --app http --response-bytes 100000";
    let mut server = stage.engine(End::B, "serve", words);
    server.wait_ready();
    let words = "--addr 10.77.1.1/24 --gateway 10.77.1.254 --target 10.77.2.1:80 --profile http --count 500 \
                 --concurrency 10 --requests-per-connection 1 --threshold connections.failed_ratio<=0";
    let load = stage.engine(End::A, "load", words).finish(PATIENCE).expect_success();
    assert_eq!(load.number("/connections/completed"), 500.0, "{load}");
    [server.interrupt().expect(6), load]
}

#[test]
fn connections_go_through_a_router() {
    let Some(stage) = stage(&bed(), &[]) else { return };
    let [server, _] = across(&stage);
    assert_eq!(server.number("/connections/completed"), 500.0, "{server}");
}

#[test]
fn connections_go_through_a_translator() {
    let Some(stage) = stage(&bed(), &["nft"]) else { return };
    let dut = stage.bed.name().netns_dut();
    let out = stage.bed.name().dut_dev_b();
    stage.shell(
        End::A,
        &format!(
            "ip netns exec {dut} nft 'add table ip nat; \
             add chain ip nat post {{ type nat hook postrouting priority srcnat; }}; \
             add rule ip nat post oifname \"{out}\" counter masquerade'"
        ),
    );
    let [server, _] = across(&stage);
    assert_eq!(server.number("/connections/completed"), 500.0, "{server}");
    // Every connection was translated: the rule saw the first packet of each.
    let rules = stage.shell(End::A, &format!("ip netns exec {dut} nft list table ip nat"));
    assert!(rules.contains("counter packets 500 "), "{rules}");
}
