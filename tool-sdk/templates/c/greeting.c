// The tool's own work, apart from how it is called: so that a plain program can test it.
#include "greeting.h"

#include <stdio.h>
#include <stdlib.h>

char *greet(const char *name, size_t length) {
    static const char form[] = "Hello, %.*s!";
    if (length == 0) {
        return NULL;
    }
    char *said = malloc(sizeof form + length);
    if (said != NULL) {
        snprintf(said, sizeof form + length, form, (int)length, name);
    }
    return said;
}
