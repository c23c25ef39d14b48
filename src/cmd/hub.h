/* hub.h - the commands for models of a hub. */
#ifndef CMD_HUB_H
#define CMD_HUB_H

#include "base/err.h"

int cmd_pull(int argc, char **argv);
int cmd_list(int argc, char **argv);
int cmd_rm(int argc, char **argv);

/* ORG/NAME[:QUANT][@REV] in place of a path becomes the path of the pulled model, valid until the
 * process ends; anything else stays.  E_IO if it has not been pulled. */
int cmd_hub_path(const char **model, struct err *err);

#endif
