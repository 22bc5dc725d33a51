"""Native CPU kernels: C++ sources, what compiles them, the binding."""
