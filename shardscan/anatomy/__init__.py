"""NAME: a tensor's place in its model, and the logical matrices that it holds. Pure: names, shapes and config in."""
