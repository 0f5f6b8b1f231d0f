import { render } from 'preact';

import { live } from './api/live';
import { App } from './App';
import { watchSensors } from './fleet/state';
import { listenToKeys } from './keys';
import { followLinks } from './router';
import { followTheme } from './ui/theme';

followTheme();
followLinks();
listenToKeys();
watchSensors();
live.start();
render(<App />, document.getElementById('app')!);
