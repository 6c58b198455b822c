//! The command from outside: what it prints, where, with which exit code, and what it leaves on disk.

mod answers;
mod built_in;
mod convert;
mod damage;
mod devices;
mod eval;
mod finetune;
mod hub;
mod hub_server;
mod interrupt;
mod look;
mod models;
mod output;
mod pictures;
mod quantize;
mod refusals;
mod resume;
mod sequences;
mod support;
mod tokenize;
mod training;
