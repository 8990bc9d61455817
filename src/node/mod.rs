//! The composition root: puts a whole node together from its parts and seams.
