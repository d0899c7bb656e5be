//! Tests of `serve`: a real server on a free port, and clients that are polite, wrong or hostile.

mod hostile;
mod known_holes;
mod limits;
mod recorded;
mod refusals;
mod routes;
