//! The probe and hook program that runs beside an engine.
