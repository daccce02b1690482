// An OpenID provider for the tests: node provider.mjs MODULES SETUP
//
// MODULES is the folder that `.ci/run` has installed oidc-provider into. SETUP is JSON: `clients` as
// oidc-provider takes them, `life` of access tokens in seconds. Everything is in memory and on
// loopback; users log in with any name and any password, by the forms that the package brings.
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const [modules, setup] = process.argv.slice(2);
const { clients, life } = JSON.parse(setup);
const entry = new URL('node_modules/oidc-provider/lib/index.js', pathToFileURL(`${modules}/`));
const { Provider } = await import(entry);

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients,
    claims: { openid: ['sub'], profile: ['name'], email: ['email'] },
    scopes: ['openid', 'profile', 'email', 'offline_access'],
    cookies: { keys: ['only for tests'] },
    features: {
      devInteractions: { enabled: true },
      introspection: { enabled: true },
      rpInitiatedLogout: { enabled: true },
    },
    findAccount: (_ctx, id) => ({
      accountId: id,
      claims: () => ({ sub: id, name: `Ms ${id}`, email: `${id}@example.com` }),
    }),
    issueRefreshToken: (_ctx, client) => client.grantTypeAllowed('refresh_token'),
    rotateRefreshToken: true,
    ttl: { AccessToken: life, IdToken: 3600, RefreshToken: 3600, Session: 3600, Grant: 3600, Interaction: 600 },
  });
  provider.on('server_error', (_ctx, error) => console.error(error));
  provider.on('grant.error', (_ctx, error) => console.error('grant', error.message, error.error_detail));
  provider.on('grant.success', (ctx) => console.log(`granted ${ctx.oidc.params.grant_type}`));
  server.on('request', provider.callback());
  console.log(`listening ${issuer}`);
});
