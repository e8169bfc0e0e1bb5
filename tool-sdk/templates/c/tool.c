// Implements the world in wit/world.wit. The build writes tool.h from it, to build/bindings.
#include "tool.h"
#include "greeting.h"

#include <stdio.h>
#include <stdlib.h>

bool exports_tool_greet(tool_string_t *name, tool_string_t *greeting, tool_string_t *error) {
    char *said = greet((const char *)name->ptr, name->len);
    tool_string_free(name);
    if (said == NULL) {
        tool_string_dup(error, "the name must not be empty");
        return false;
    }
    tool_string_dup(greeting, said);
    free(said);
    return true;
}
