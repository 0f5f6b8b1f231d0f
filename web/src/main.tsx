import { render } from 'preact';

import { live } from './api/live';
import { App } from './App';
import { followLinks } from './router';
import { followTheme } from './ui/theme';

followTheme();
followLinks();
live.start();
render(<App />, document.getElementById('app')!);
