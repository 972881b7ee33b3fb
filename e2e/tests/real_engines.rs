//! Real engines, through gateway and sidecar, driven by their official clients.
