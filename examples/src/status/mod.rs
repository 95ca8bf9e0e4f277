//! The state of a director, shown.
//!
//! The engine fills in a [`Status`], plain data, whenever somebody asks; everything else here is a pure function of it:
//! no clock, no socket, no lock. An HTTP server of any make hands over the path and sends what [`respond`] gives:
//!
//! ```
//! use lb_examples::status::{respond, sample};
//!
//! let response = respond("/status.json", || sample::at(60.0));
//! assert_eq!((response.code, response.content_type), (200, "application/json"));
//! ```
//!
//! | path | module | what it is |
//! |---|---|---|
//! | `/` | [`html`] | the page: readable without scripts, live with them |
//! | `/status.json` | [`json`] | the [`Status`] with derived fields |
//! | `/status.csv` | [`csv`] | a line for each frontend, server and backend, in the spirit of HAProxy |
//! | `/metrics` | [`prometheus`] | text exposition format 0.0.4 |

pub mod csv;
mod format;
pub mod html;
pub mod json;
pub mod model;
pub mod prometheus;
mod route;
pub mod sample;

pub use model::Status;
pub use route::{PATHS, Response, respond};
