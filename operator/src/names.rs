//! The words that the operator writes into objects: labels, annotations, names, ports, paths. What stands in running
//! pods is a frozen interface: only the sidecar's image can change in place.

use outrigger_wire::RevisionId;

/// The field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "outrigger";

/// Label: who made it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub const OUTRIGGER: &str = "outrigger";
/// Label: which deployment, by the field's own word.
pub const APP_NAME: &str = "app.kubernetes.io/name";
/// Label: the ModelDeployment's name.
pub const DEPLOYMENT: &str = "outrigger.dev/deployment";
/// Label: the revision's hash.
pub const REVISION: &str = "outrigger.dev/revision";
/// Label on a pod template that nobody owns: the webhook adds the sidecar.
pub const INJECT: &str = "outrigger.dev/inject";
/// Annotation: what a human asks of a rollout, `<verb>@<revision>/<step>/<nonce>`.
pub const ACTION: &str = "outrigger.dev/action";
/// Annotation on the lease: where the leader takes reports, `address:port`.
pub const ADDRESS: &str = "outrigger.dev/address";

/// The engine's container.
pub const ENGINE_CONTAINER: &str = "engine";
/// The sidecar's init container, and the volume that it shares with the engine.
pub const SIDECAR_CONTAINER: &str = "outrigger";
/// The sidecar's port for requests, by name and number.
pub const DATA_PORT: (&str, u16) = ("outrigger", 9000);
/// The sidecar's port for probes and metrics, by name and number.
pub const ADMIN_PORT: (&str, u16) = ("outrigger-admin", 9001);
/// Where the shared volume is mounted, in the sidecar and in the engine.
pub const SHARED_DIR: &str = "/outrigger";
/// The helper, copied there by the sidecar for the engine's probe and hook.
pub const HELPER: &str = "/outrigger/helper";
/// The sidecar's Unix socket.
pub const SOCKET: &str = "/outrigger/sidecar.sock";
/// The sidecar's own state.
pub const STATE_DIR: &str = "/outrigger-state";
/// The folder of the certificate authority's bundle.
pub const CA_DIR: &str = "/outrigger-ca";
/// The folder of the projected token.
pub const TOKEN_DIR: &str = "/outrigger-token";
/// The audience of projected tokens.
pub const AUDIENCE: &str = "outrigger";
/// The Secret of the certificate authority (installation namespace), and the ConfigMap of its bundle (each
/// namespace with pods).
pub const CA_OBJECT: &str = "outrigger-ca";
/// The bundle's key in that ConfigMap.
pub const CA_KEY: &str = "ca.crt";

/// The name of a revision's ReplicaSet and ControllerRevision.
pub fn of_revision(deployment: &str, revision: &RevisionId) -> String {
    format!("{deployment}-{revision}")
}
