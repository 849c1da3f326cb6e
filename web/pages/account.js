// Shows nothing personal once the session has ended.

import { watchEnd } from "./ended.js";

watchEnd(new URL("../account", import.meta.url).href);
