//! The program as users run it, on real veth pairs, against the real kernel and real programs.
//!
//! Each test makes a bed of its own and takes it away again, also when it fails; they run one at a time, for the
//! engines want the cores. Without root, or without a program that a test talks to, a test says SKIPPED; where `CI` is
//! set it fails instead.

mod attack;
mod causes;
mod cookies;
mod earlier;
mod engines;
mod failures;
mod flood;
mod insight;
mod load;
mod middle;
mod privileges;
mod serve;
mod shared;
mod stage;
mod syscalls;
