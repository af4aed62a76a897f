//! Tests run the state machine against a simulated device, and check every command.

mod device;
mod properties;
mod stories;
