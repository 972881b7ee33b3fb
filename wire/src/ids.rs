//! Names that must not be swapped by accident.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A deployment: `namespace/name`. `up` uses the namespace `default`.
    DeploymentKey
);
id!(
    /// One immutable version of what the pods run: ten hexadecimal digits of a hash over what the user wrote.
    RevisionId
);
id!(
    /// One replica as a proxy knows it: the pod's uid; in `up`, the replica's name.
    EndpointId
);
id!(
    /// One gateway: the pod's name; in `up`, `gateway`.
    GatewayId
);
