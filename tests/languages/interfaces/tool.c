#include "tool.h"

#include <stdio.h>
#include <string.h>

static bool failed(tool_string_t *error, const char *why) {
    tool_string_dup(error, why);
    return false;
}

bool exports_tool_keep(tool_string_t *value, tool_string_t *said, tool_string_t *error) {
    tool_string_t name, key, setting, context;
    tool_string_set(&name, "");
    tool_string_set(&key, "kept");
    tool_string_set(&setting, "region");
    tool_string_set(&context, "c");
    wasi_keyvalue_store_own_bucket_t bucket;
    wasi_keyvalue_store_error_t refused;
    if (!wasi_keyvalue_store_open(&name, &bucket, &refused)) {
        return failed(error, "no bucket");
    }
    tool_list_u8_t bytes = {value->ptr, value->len};
    tool_option_list_u8_t kept;
    wasi_keyvalue_store_borrow_bucket_t borrowed = wasi_keyvalue_store_borrow_bucket(bucket);
    if (!wasi_keyvalue_store_method_bucket_set(borrowed, &key, &bytes, &refused) ||
        !wasi_keyvalue_store_method_bucket_get(borrowed, &key, &kept, &refused) || !kept.is_some) {
        return failed(error, "not kept");
    }
    wasi_logging_logging_log(WASI_LOGGING_LOGGING_LEVEL_WARN, &context, value);
    tool_option_string_t region;
    wasi_config_store_error_t unknown;
    if (!wasi_config_store_get(&setting, &region, &unknown) || !region.is_some) {
        return failed(error, "no region");
    }
    char text[64] = "";
    FILE *file = fopen("/data/file.txt", "r");
    if (file == NULL || fgets(text, sizeof text, file) == NULL) {
        return failed(error, "no file");
    }
    fclose(file);
    char all[256];
    snprintf(all, sizeof all, "%.*s, %.*s, %s", (int)kept.val.len, (const char *)kept.val.ptr, (int)region.val.len,
             (const char *)region.val.ptr, text);
    tool_string_dup(said, all);
    return true;
}
