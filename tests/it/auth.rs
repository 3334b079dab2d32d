//! Who may do what, and how they prove who they are.

mod forms;
mod grants;
mod signatures;
