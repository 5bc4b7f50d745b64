//! One network interface: driver, link, queues, offloads, and whose it is.

use serde_json::Value;

use super::Finding;
use crate::command;
use crate::error::{Error, Result};
use crate::net::IfName;

/// Drivers that run XDP programs themselves, as of Linux 6.12.
const NATIVE: [&str; 28] = [
    "atlantic",
    "bnxt_en",
    "dpaa2",
    "fsl_dpaa2_eth",
    "ena",
    "fec",
    "gve",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "mana",
    "mlx4_en",
    "mlx5_core",
    "mvneta",
    "mvpp2",
    "nfp",
    "qede",
    "sfc",
    "stmmac",
    "tun",
    "veth",
    "virtio_net",
    "vif",
    "vmxnet3",
];

/// Drivers that write frames into AF_XDP buffers themselves, as of Linux 6.12.
const ZEROCOPY: [&str; 10] =
    ["fsl_dpaa2_eth", "gve", "i40e", "ice", "igc", "ixgbe", "mlx5_core", "nfp", "stmmac", "virtio_net"];

/// Largest MTU whose frames fit an AF_XDP buffer of one page with its headroom.
const MTU_MAX: u64 = 3_498;

pub(super) fn examine(dev: &IfName) -> Result<Vec<Finding>> {
    let link = link(dev)?;
    let driver = driver(dev, &link);
    let mut findings = vec![state(dev, &link), driver_finding(driver.as_deref()), mtu(dev, &link)];
    findings.push(queues(&link));
    findings.push(default_route(dev)?);
    findings.extend(offloads(dev, driver.as_deref()));
    findings.extend(attached(dev, &link));
    Ok(findings)
}

fn link(dev: &IfName) -> Result<Value> {
    let text = command::run("ip", ["-j", "-d", "link", "show", "dev", dev.as_str()]).map_err(|error| {
        if error.to_string().contains("does not exist") {
            return Error::environment(
                format!("no device {dev}"),
                "it does not exist here",
                "list them with `ip link`",
            );
        }
        error
    })?;
    let links: Value = serde_json::from_str(&text).unwrap_or_default();
    Ok(links.get(0).cloned().unwrap_or_default())
}

fn driver(dev: &IfName, link: &Value) -> Option<String> {
    if let Some(kind) = link["linkinfo"]["info_kind"].as_str() {
        return Some(kind.to_owned());
    }
    let text = command::run("ethtool", ["-i", dev.as_str()]).ok()?;
    crate::host::field(&text, "driver").map(str::to_owned)
}

fn state(dev: &IfName, link: &Value) -> Finding {
    let flags = link["flags"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let (mut up, mut carrier) = (false, false);
    for flag in flags {
        up |= flag == "UP";
        carrier |= flag == "LOWER_UP";
    }
    match (up, carrier) {
        (true, true) => Finding::ok("link", "up"),
        (true, false) => Finding::warn("link", "up, but without carrier", "plug in the other end, or set it up"),
        _ => Finding::missing("link", "down", format!("ip link set {dev} up")),
    }
}

fn driver_finding(driver: Option<&str>) -> Finding {
    let Some(driver) = driver else {
        return Finding::warn("driver", "unknown", "apt-get install ethtool, or go by `--mode auto`");
    };
    let zerocopy = if ZEROCOPY.contains(&driver) { "zero-copy" } else { "copy" };
    if NATIVE.contains(&driver) {
        return Finding::ok("driver", format!("{driver}: native XDP, {zerocopy}"));
    }
    Finding::warn("driver", format!("{driver}: generic XDP only, as far as is known"), "use a device of another driver")
}

fn mtu(dev: &IfName, link: &Value) -> Finding {
    match link["mtu"].as_u64() {
        Some(mtu) if mtu <= MTU_MAX => Finding::ok("MTU", mtu.to_string()),
        Some(mtu) => {
            let detail = format!("{mtu}, but frames up to {MTU_MAX} fit a buffer");
            Finding::missing("MTU", detail, format!("ip link set {dev} mtu 1500"))
        }
        None => Finding::warn("MTU", "unknown", format!("check with `ip link show {dev}`")),
    }
}

fn queues(link: &Value) -> Finding {
    let count = |key: &str| link[key].as_u64().unwrap_or(0);
    let (rx, tx) = (count("num_rx_queues"), count("num_tx_queues"));
    Finding::ok("queues", format!("{rx} receive, {tx} transmit: at most {} workers", rx.min(tx).max(1)))
}

fn default_route(dev: &IfName) -> Result<Finding> {
    for family in ["-4", "-6"] {
        // A kernel without IPv6 refuses to list its routes.
        let text = command::run("ip", [family, "-j", "route", "show", "default"]).unwrap_or_default();
        let routes: Value = serde_json::from_str(&text).unwrap_or_default();
        if routes.as_array().into_iter().flatten().any(|route| route["dev"] == dev.as_str()) {
            let detail = "this host's own traffic leaves by it";
            return Ok(Finding::warn(
                "default route",
                detail,
                "use a device of its own; an SSH session may depend on it",
            ));
        }
    }
    Ok(Finding::ok("default route", "not by this device"))
}

/// Segments merged in hardware or by the kernel do not fit a frame buffer.
fn offloads(dev: &IfName, driver: Option<&str>) -> Option<Finding> {
    let text = command::run("ethtool", ["-k", dev.as_str()]).ok()?;
    let on = |name: &str| crate::host::field(&text, name).is_some_and(|value| value.starts_with("on"));
    if driver == Some("veth") || !on("large-receive-offload") {
        return Some(Finding::ok("offloads", "none that merges received segments in hardware"));
    }
    let detail = "large-receive-offload merges segments beyond a frame buffer";
    Some(Finding::warn("offloads", detail, format!("ethtool -K {dev} lro off")))
}

fn attached(dev: &IfName, link: &Value) -> Option<Finding> {
    let id = link["xdp"]["prog"]["id"].as_u64()?;
    let mend = format!("end the process that holds it, or `ip link set {dev} xdp off`");
    Some(Finding::missing("XDP program", format!("another program is attached already (id {id})"), mend))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;
    use serde_json::json;

    #[test]
    fn what_ip_says_is_understood() {
        let dev: IfName = "x0".parse().unwrap();
        let link = json!({"flags": ["UP", "LOWER_UP"], "mtu": 9000, "num_rx_queues": 4, "num_tx_queues": 2,
                          "linkinfo": {"info_kind": "veth"}, "xdp": {"prog": {"id": 7}}});
        assert_eq!(state(&dev, &link).status, Status::Ok);
        assert_eq!(state(&dev, &json!({"flags": []})).mend.unwrap(), "ip link set x0 up");
        assert_eq!(mtu(&dev, &link).status, Status::Missing);
        assert!(queues(&link).detail.contains("at most 2 workers"));
        assert_eq!(driver(&dev, &link).as_deref(), Some("veth"));
        assert!(attached(&dev, &link).is_some_and(|finding| finding.detail.contains("id 7")));
        assert!(attached(&dev, &json!({})).is_none());
        assert_eq!(driver_finding(Some("e1000")).status, Status::Warn);
    }
}
