//! What the cluster looks like when a test has waited in vain.

use super::Cluster;

/// The lines of each part of the report that are shown.
const LINES: usize = 60;

/// Nodes, and everything of interest in a namespace, in kubectl's own words.
pub(super) fn of(cluster: &Cluster, namespace: &str) -> String {
    let looks: [&[&str]; 5] = [
        &["get", "nodes"],
        // On its own: where the kind is unknown, kubectl shows nothing else either.
        &["get", "modeldeployments", "-o", "wide", "-n", namespace],
        &["get", "all,networkpolicies,endpointslices", "-o", "wide", "-n", namespace],
        &["get", "pods", "-n", namespace, "-o", STATES],
        &["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"],
    ];
    let mut report = String::new();
    for look in looks {
        let Ok(output) = cluster.try_kubectl(look) else { continue };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        report.push_str(&format!("\n$ kubectl {}\n", look.join(" ")));
        for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
            report.push_str(line);
            report.push('\n');
        }
    }
    report
}

/// Each container's state, with the reason that Kubernetes gives.
const STATES: &str = "jsonpath={range .items[*]}{.metadata.name}{range .status.initContainerStatuses[*]}\
     {\"\\n  \"}{.name}{\" \"}{.restartCount}{\" \"}{.state}{end}{range .status.containerStatuses[*]}{\"\\n  \"}{.name}\
     {\" \"}{.restartCount}{\" \"}{.state}{end}{\"\\n\"}{end}";
