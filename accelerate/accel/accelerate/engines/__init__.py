"""TensorRT engines: which library, what it is asked, the build, what it is made of, and running it."""
