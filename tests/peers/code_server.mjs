// code-server behind the gateway.
//
//   node code_server.mjs NODE_MODULES ARGUMENTS...
//
// Starts code-server with its usual arguments. The command of code-server runs its server in a second process, which
// continues to run when a test kills the first process. This script is one process, and its children end with it.
import { createRequire } from 'node:module';
import * as path from 'node:path';

const [modules, ...arguments_] = process.argv.slice(2);
// With this variable, the workbench leaves the start of its server to code-server.
process.env.CODE_SERVER_PARENT_PID = String(process.pid);
const require = createRequire(path.join(modules, 'code-server/out/node/'));
const { parse, setDefaults } = require('./cli.js');
const { runCodeServer } = require('./main.js');
await runCodeServer(await setDefaults(parse(arguments_), {}));
