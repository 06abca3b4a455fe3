//! Topics, logs and cursors, pure.
