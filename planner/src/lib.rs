//! Many runs and what follows from them: the deployment that meets a goal, the rows of a sweep, what differs between
//! runs. Runs are independent, so they run in parallel; results do not depend on the number of threads.
#![forbid(unsafe_code)]

pub mod answer;
pub mod bounds;
pub mod compare;
pub mod goal;
pub mod limits;
pub mod measures;
pub mod plan;
pub mod prices;
pub mod rank;
pub mod search;
pub mod seeds;
pub mod space;
pub mod sweep;
