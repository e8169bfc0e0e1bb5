#include "greeting.h"

#undef NDEBUG
#include <assert.h>
#include <string.h>

int main(void) {
    assert(strcmp(greet("World", 5), "Hello, World!") == 0);
    assert(greet("", 0) == NULL);
    return 0;
}
