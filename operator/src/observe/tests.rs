//! What objects as Kubernetes writes them mean.
