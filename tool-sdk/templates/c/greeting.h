#pragma once

#include <stddef.h>

// A greeting, for the caller to free; NULL without a name.
char *greet(const char *name, size_t length);
